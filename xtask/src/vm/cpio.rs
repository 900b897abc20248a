//! The archive format of the kernel's initramfs ("newc"), written directly.
//!
//! cpio(1) could do it too, but needs root for the console's device node and a staging folder for everything.

use std::io::{self, Write};

/// An archive that is being written.
#[derive(Debug)]
pub(crate) struct Archive<W> {
    out: W,
    next_inode: u32,
    written: usize,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            next_inode: 1,
            written: 0,
        }
    }

    pub(crate) fn folder(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, 0o040_755, (0, 0), &[])
    }

    pub(crate) fn executable(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, 0o100_755, (0, 0), content)
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.entry(name, 0o100_644, (0, 0), content)
    }

    pub(crate) fn symlink(&mut self, name: &str, to: &str) -> io::Result<()> {
        self.entry(name, 0o120_777, (0, 0), to.as_bytes())
    }

    pub(crate) fn character_device(
        &mut self,
        name: &str,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(name, 0o020_600, (major, minor), &[])
    }

    /// Writes the end of the archive and everything that is still buffered.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let too_large = |_| io::Error::other(format!("{name} is too large for an initramfs"));
        let size = u32::try_from(content.len()).map_err(too_large)?;
        let name_size = u32::try_from(name.len() + 1).map_err(too_large)?;
        let inode = self.next_inode;
        self.next_inode += 1;
        // inode, mode, uid, gid, links, mtime, size, device of the file system (2), device (2), length of the name, checksum
        let fields = [
            inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.put(b"070701")?;
        for field in fields {
            self.put(format!("{field:08x}").as_bytes())?;
        }
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.put(&[0; 4][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_start_on_four_bytes_and_the_archive_ends_with_its_trailer() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("bin").unwrap();
        archive.executable("bin/x", b"12345").unwrap();
        archive.character_device("console", 5, 1).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes).unwrap();
        let starts: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        assert!(
            text.contains("0000000500000001"),
            "the console's device numbers"
        );
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }
}

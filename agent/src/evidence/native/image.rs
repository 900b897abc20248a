//! ELF files that are mapped into a process: opened without trusting their paths, and shared between processes.
//!
//! A file that shrinks while it is mapped here ends this process with SIGBUS: one more reason why it is a disposable one.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::{Deref, Range};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::rc::{Rc, Weak};

use memmap2::{Mmap, MmapOptions};
use object::Endianness;
use object::elf::{FileHeader64, PF_X, PT_GNU_EH_FRAME, PT_LOAD};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use super::maps::{Mapping, Maps};
use super::memory;
use crate::pipeline::Pid;

/// Bytes at the start of a file that are compared with those in memory where only its path leads to it.
const HEAD: usize = 1024;
/// The kernel's own image in every process is one or two pages.
const VDSO_LIMIT: u64 = 64 * 1024;

/// A mapped file.
pub(super) struct Image {
    /// Kept open: `/proc/self/fd/N` is its path for whoever wants one.
    file: File,
    segments: Vec<Segment>,
    tables: Tables,
    /// Bytes of debug information.
    debug_bytes: u64,
    /// Names of this file only, so that they go when it does.
    pub(super) symbols: blazesym::symbolize::Symbolizer,
}

/// Loaded parts that hold code.
struct Segment {
    offset: u64,
    bytes: u64,
    address: u64,
}

/// Where the unwinding tables are.
#[derive(Default)]
struct Tables {
    header: Option<Table>,
    frames: Option<Table>,
    debug_frames: Option<Table>,
}

/// A part of the file, and its address in the file's own address space.
#[derive(Clone)]
struct Table {
    range: Range<usize>,
    address: u64,
    mapped: Option<Rc<Mmap>>,
}

/// A mapped part of a file.
#[derive(Clone)]
pub(super) struct Section(Rc<Mmap>);

impl Deref for Section {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Image {
    fn new(file: File) -> io::Result<Self> {
        // The whole only for as long as it takes to find the parts: address space is limited here.
        let (segments, mut tables, debug_bytes) =
            layout(&map(&file, None)?).map_err(io::Error::other)?;
        for table in [
            &mut tables.header,
            &mut tables.frames,
            &mut tables.debug_frames,
        ]
        .into_iter()
        .flatten()
        {
            table.mapped = Some(Rc::new(map(&file, Some(&table.range))?));
        }
        let no_folders: [&Path; 0] = [];
        let symbols = blazesym::symbolize::Symbolizer::builder()
            .enable_auto_reload(false)
            // Debug information beside the file would be opened by a path that the file's maker chose.
            .set_debug_dirs(Some(no_folders))
            .build();
        Ok(Self {
            file,
            segments,
            tables,
            debug_bytes,
            symbols,
        })
    }

    /// How to ask for names in it.
    pub(super) fn source(&self, debug_limit: u64) -> blazesym::symbolize::source::Source<'static> {
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let mut elf = blazesym::symbolize::source::Elf::new(path);
        elf.debug_syms = self.debug_bytes > 0 && self.debug_bytes <= debug_limit;
        elf.into()
    }

    /// What has to be added to the file's own addresses where it is mapped like this.
    pub(super) fn bias(&self, mapping: &Mapping) -> Option<u64> {
        let segment = self.segments.iter().find(|segment| {
            // A mapping begins at the page that the segment begins in.
            let first = segment.offset & !4095;
            (first..segment.offset.saturating_add(segment.bytes)).contains(&mapping.offset)
        })?;
        Some(
            mapping
                .start
                .wrapping_sub(mapping.offset)
                .wrapping_add(segment.offset)
                .wrapping_sub(segment.address),
        )
    }

    /// Unwinding tables, as the unwinder takes them.
    pub(super) fn sections(&self) -> framehop::ExplicitModuleSectionInfo<Section> {
        let part = |table: &Option<Table>| {
            let table = table.as_ref()?;
            let length = u64::try_from(table.range.len()).ok()?;
            let section = Section(Rc::clone(table.mapped.as_ref()?));
            Some((section, table.address..table.address.checked_add(length)?))
        };
        let (header, header_at) = part(&self.tables.header).unzip();
        let (frames, frames_at) = part(&self.tables.frames).unzip();
        let debug = part(&self.tables.debug_frames).map(|(section, _)| section);
        framehop::ExplicitModuleSectionInfo {
            eh_frame_hdr: header,
            eh_frame_hdr_svma: header_at,
            eh_frame: frames,
            eh_frame_svma: frames_at,
            debug_frame: debug,
            base_svma: 0,
            text_svma: None,
            text: None,
            stubs_svma: None,
            stub_helper_svma: None,
            got_svma: None,
            unwind_info: None,
            text_segment_svma: None,
            text_segment: None,
        }
    }
}

type Layout = (Vec<Segment>, Tables, u64);

/// Where things are in an ELF file. Nothing of it is believed beyond the file's own size.
fn layout(data: &[u8]) -> object::read::Result<Layout> {
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let mut segments = Vec::new();
    let mut tables = Tables::default();
    for segment in header.program_headers(endian, data)? {
        let (offset, bytes, address) = (
            segment.p_offset(endian),
            segment.p_filesz(endian),
            segment.p_vaddr(endian),
        );
        match segment.p_type(endian) {
            PT_LOAD if segment.p_flags(endian) & PF_X != 0 => segments.push(Segment {
                offset,
                bytes,
                address,
            }),
            PT_GNU_EH_FRAME => {
                tables.header = table(data, offset, bytes, address);
            }
            _ => {}
        }
    }
    let mut debug_bytes = 0u64;
    let sections = header.sections(endian, data)?;
    for section in sections.iter() {
        let name = sections.section_name(endian, section).unwrap_or_default();
        let place = || {
            let (offset, bytes) = section.file_range(endian)?;
            table(data, offset, bytes, section.sh_addr(endian))
        };
        match name {
            b".eh_frame" => tables.frames = place(),
            b".debug_frame" => tables.debug_frames = place(),
            name if name.starts_with(b".debug_") || name.starts_with(b".zdebug_") => {
                debug_bytes = debug_bytes.saturating_add(section.sh_size(endian));
            }
            _ => {}
        }
    }
    if tables.frames.is_none() {
        tables.frames = frames_of_header(data, tables.header.as_ref());
    }
    Ok((segments, tables, debug_bytes))
}

/// Without section headers: the header of the tables says where they begin, and they end themselves.
fn frames_of_header(data: &[u8], header: Option<&Table>) -> Option<Table> {
    /// Relative to itself, signed, 4 bytes: what all linkers write.
    const RELATIVE: u8 = 0x1b;
    let header = header?;
    let bytes = data.get(header.range.clone())?;
    if *bytes.get(1)? != RELATIVE {
        return None;
    }
    let relative = i32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
    let distance = 4 + i64::from(relative);
    let start = header
        .range
        .start
        .checked_add_signed(isize::try_from(distance).ok()?)?;
    (start < data.len()).then(|| Table {
        range: start..data.len(),
        address: header.address.wrapping_add_signed(distance),
        mapped: None,
    })
}

fn table(data: &[u8], offset: u64, bytes: u64, address: u64) -> Option<Table> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(bytes).ok()?)?;
    (end <= data.len() && start < end).then_some(Table {
        range: start..end,
        address,
        mapped: None,
    })
}

/// Maps a file, or a part of it.
fn map(file: &File, part: Option<&Range<usize>>) -> io::Result<Mmap> {
    let mut options = MmapOptions::new();
    if let Some(part) = part {
        options
            .offset(u64::try_from(part.start).map_err(io::Error::other)?)
            .len(part.len());
    }
    // SAFETY: nothing here writes to the mapping. Another process may write to the file: what is read from it is not
    // trusted, and a file that shrinks ends this process, which is made for that.
    unsafe { options.map(file) }
}

/// Files that are open already, so that processes which run the same program share them.
#[derive(Default)]
pub(super) struct Images(Vec<(Identity, Weak<Image>)>);

/// One version of one file.
#[derive(PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl std::fmt::Debug for Images {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Images").field(&self.0.len()).finish()
    }
}

impl Images {
    /// The file that is mapped there.
    pub(super) fn of(&mut self, pid: Pid, maps: &Maps, mapping: &Mapping) -> io::Result<Rc<Image>> {
        if mapping.path == "[vdso]" {
            return Ok(Rc::new(Image::new(vdso(pid, mapping)?)?));
        }
        let file = open_mapped(pid, maps, mapping)?;
        let data = file.metadata()?;
        let identity = Identity {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
        };
        self.0.retain(|(_, image)| image.strong_count() > 0);
        let known = self.0.iter().find(|(known, _)| *known == identity);
        if let Some(image) = known.and_then(|(_, image)| image.upgrade()) {
            return Ok(image);
        }
        let image = Rc::new(Image::new(file)?);
        self.0.push((identity, Rc::downgrade(&image)));
        Ok(image)
    }
}

/// The kernel's own code in the process, which is in no file: copied into one that lives in memory.
fn vdso(pid: Pid, mapping: &Mapping) -> io::Result<File> {
    let bytes = (mapping.end - mapping.start).min(VDSO_LIMIT);
    let bytes = usize::try_from(bytes).map_err(io::Error::other)?;
    let copy = memory::read(pid, mapping.start, bytes).map_err(io::Error::other)?;
    let file = rustix::fs::memfd_create("vdso", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(&copy)?;
    Ok(file)
}

/// Opens a mapped file: by the mapping itself, which also finds deleted files and needs no path but more privilege; else by
/// its path in the process's root, if the file there is still the mapped one.
fn open_mapped(pid: Pid, maps: &Maps, mapping: &Mapping) -> io::Result<File> {
    let link = format!(
        "/proc/{pid}/map_files/{:x}-{:x}",
        mapping.start, mapping.end
    );
    if let Ok(file) = regular(
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(link),
    ) {
        return Ok(file);
    }
    let exe = format!("/proc/{pid}/exe");
    if let Ok(file) = regular(File::open(exe))
        && is_mapped(pid, maps, mapping, &file)
    {
        return Ok(file);
    }
    let file = open_in(pid, Path::new(&mapping.path))?;
    if is_mapped(pid, maps, mapping, &file) {
        return Ok(file);
    }
    Err(io::Error::other(format!(
        "the file at {} is another than the mapped one",
        mapping.path
    )))
}

/// Opens a regular file by a path of the process's own root. Links in it stay below that root.
pub(super) fn open_in(pid: Pid, path: &Path) -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty())?;
    let file = openat2(
        root.as_fd(),
        path,
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    regular(Ok(File::from(file)))
}

fn regular(file: io::Result<File>) -> io::Result<File> {
    let file = file?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::other("it is no regular file"))
}

/// Whether the first bytes, which hold the layout and the build's id, are those in the process's memory. Inode numbers do
/// not tell: overlay file systems show other ones in `maps` than on the file.
fn is_mapped(pid: Pid, maps: &Maps, mapping: &Mapping, file: &File) -> bool {
    let Some(head) = maps.head_of(mapping) else {
        return false;
    };
    let mut bytes = Vec::with_capacity(HEAD);
    let limit = u64::try_from(HEAD).unwrap_or(0);
    let mut file = file;
    if file.seek(SeekFrom::Start(0)).is_err()
        || file.take(limit).read_to_end(&mut bytes).is_err()
        || bytes.is_empty()
    {
        return false;
    }
    memory::read(pid, head.start, bytes.len()).is_ok_and(|mapped| mapped == bytes)
}

//! Whether this kernel and these privileges let a program load BPF at all.
//!
//! Parts that need it say so loudly and are left out where it is refused, except in CI, where being refused is a failure:
//! otherwise a broken machine would look like a green run.

use std::os::fd::{FromRawFd as _, OwnedFd};

use anyhow::{Result, bail};

/// Set where everything has to run: by `.ci/run`.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("LOOPWARDEN_CI").is_some_and(|value| value == "1")
}

/// Whether `part` can run here; says why not, and fails in CI.
pub(crate) fn allowed_for(part: &str) -> Result<bool> {
    let Err(reason) = load_nothing() else {
        return Ok(true);
    };
    let advice = "run it as root, or with the capabilities BPF and PERFMON, outside of seccomp filters that forbid bpf()";
    if in_ci() {
        bail!(
            "{part} cannot run and LOOPWARDEN_CI=1 does not let it be left out: bpf() says {reason}; {advice}"
        );
    }
    eprintln!("\n*** LEFT OUT: {part}\n*** bpf() says {reason}; {advice}\n");
    Ok(false)
}

/// Loads the smallest tracepoint program, and lets it go again.
fn load_nothing() -> std::io::Result<()> {
    /// The head of the kernel's `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct ProgLoad {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
    }
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_TRACEPOINT: u32 = 5;
    // r0 = 0; exit
    let program: [u64; 2] = [0x0000_0000_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_TRACEPOINT,
        insn_cnt: 2,
        insns: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
    };
    // SAFETY: the kernel reads `size_of::<ProgLoad>()` bytes of `attr` and what its two pointers name, all alive until it returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            size_of::<ProgLoad>(),
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just given us this descriptor and nobody else knows it.
        Ok(fd) if fd >= 0 => drop(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => return Err(std::io::Error::last_os_error()),
    }
    Ok(())
}

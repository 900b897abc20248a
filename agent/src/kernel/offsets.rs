//! Byte offsets of kernel fields, from the running kernel's BTF.

use loopwarden_abi::{Offsets, REGISTER_BYTES, RegisterFacts, SocketFacts};

use super::btf::Btf;
use super::error::KernelError;

/// Where the kernel publishes its type information.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Places of the system-call arguments in `struct pt_regs`, in order. User ABI, so constant.
#[cfg(target_arch = "x86_64")]
const REGS: [u32; 5] = [112, 104, 96, 56, 72];
#[cfg(target_arch = "aarch64")]
const REGS: [u32; 5] = [0, 8, 16, 24, 32];

/// The kernel's types, parsed.
pub struct KernelTypes(Btf);

impl std::fmt::Debug for KernelTypes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KernelTypes")
    }
}

impl KernelTypes {
    /// Reads the running kernel's BTF.
    pub fn read() -> Result<Self, KernelError> {
        let failed = |error: String| KernelError::NoBtf {
            path: VMLINUX,
            error,
        };
        let bytes = std::fs::read(VMLINUX).map_err(|error| failed(error.to_string()))?;
        let parsed = Btf::parse(bytes);
        parsed
            .map(Self)
            .ok_or_else(|| failed("it is malformed, or of a newer form".to_owned()))
    }

    /// Whether the kernel has a traceable function of that name.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.0.has_function(name)
    }

    /// Every offset the kernel half needs.
    pub fn offsets(&self) -> Result<Offsets, KernelError> {
        let at = |structure: &str, path: &[&str]| self.offset(structure, path);
        Ok(Offsets {
            task_pid: at("task_struct", &["pid"])?,
            task_tgid: at("task_struct", &["tgid"])?,
            task_real_parent: at("task_struct", &["real_parent"])?,
            task_group_leader: at("task_struct", &["group_leader"])?,
            task_start_boottime: at("task_struct", &["start_boottime"])?,
            task_thread_pid: at("task_struct", &["thread_pid"])?,
            task_signal: at("task_struct", &["signal"])?,
            task_exit_code: at("task_struct", &["exit_code"])?,
            task_mm: at("task_struct", &["mm"])?,
            signal_live: at("signal_struct", &["live"])?,
            pid_level: at("pid", &["level"])?,
            pid_numbers: at("pid", &["numbers"])?,
            upid_size: self.size("upid")?,
            upid_nr: at("upid", &["nr"])?,
            mm_exe_file: at("mm_struct", &["exe_file"])?,
            file_dentry: at("file", &["f_path", "dentry"])?,
            dentry_name: at("dentry", &["d_name", "name"])?,
            regs: REGS,
        })
    }

    /// What reading a thread's saved registers needs; a kernel that lacks a part of it goes without.
    pub fn register_facts(&self) -> Result<RegisterFacts, KernelError> {
        /// Kernel stacks on x86-64 and on arm64 with pages of 4 KiB, and nothing above the registers: true of the kernels
        /// without a helper that says where registers are (before 5.15). What is found there is checked to be registers.
        const STACK_BYTES: u32 = 16 * 1024;
        let whole = self.size("pt_regs")?;
        Ok(RegisterFacts {
            task_stack: self.offset("task_struct", &["stack"])?,
            task_on_cpu: self.offset("task_struct", &["on_cpu"])?,
            task_nvcsw: self.offset("task_struct", &["nvcsw"])?,
            task_nivcsw: self.offset("task_struct", &["nivcsw"])?,
            task_state: self
                .offset("task_struct", &["__state"])
                .or_else(|_| self.offset("task_struct", &["state"]))?,
            bytes: whole.min(u32::try_from(REGISTER_BYTES).unwrap_or(u32::MAX)),
            above_stack: STACK_BYTES.saturating_sub(whole),
            pad: 0,
        })
    }

    /// What seeing connections needs.
    pub fn socket_facts(&self) -> Result<SocketFacts, KernelError> {
        /// An IPv6 address is four words.
        const LAST_WORD: u32 = 12;
        let common = |path: &[&str]| {
            let base = self.offset("sock", &["__sk_common"])?;
            Ok::<u32, KernelError>(base + self.offset("sock_common", path)?)
        };
        // A kernel without IPv6 has neither.
        let v6 = |name| common(&[name]).map_or(0, |at| at + LAST_WORD);
        Ok(SocketFacts {
            family: common(&["skc_family"])?,
            num: common(&["skc_num"])?,
            dport: common(&["skc_dport"])?,
            saddr: common(&["skc_rcv_saddr"])?,
            daddr: common(&["skc_daddr"])?,
            v6_saddr: v6("skc_v6_rcv_saddr"),
            v6_daddr: v6("skc_v6_daddr"),
            net: common(&["skc_net", "net"])?,
            net_inum: self.offset("net", &["ns", "inum"])?,
            bytes_received: self.offset("tcp_sock", &["bytes_received"])?,
            err: self.offset("sock", &["sk_err"])?,
        })
    }

    fn size(&self, name: &str) -> Result<u32, KernelError> {
        self.0.size(name).ok_or_else(|| KernelError::NoField {
            field: format!("struct {name}"),
        })
    }

    fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, KernelError> {
        self.0
            .offset(structure, path)
            .ok_or_else(|| KernelError::NoField {
                field: format!("{structure}.{}", path.join(".")),
            })
    }
}

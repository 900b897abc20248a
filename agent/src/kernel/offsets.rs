//! Byte offsets of kernel fields, from the running kernel's BTF.

use btf_rs::{Btf, Type};
use loopwarden_abi::Offsets;

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
        Btf::from_file(VMLINUX)
            .map(Self)
            .map_err(|error| KernelError::NoBtf {
                path: VMLINUX,
                error: error.to_string(),
            })
    }

    /// Whether the kernel has a traceable function of that name.
    #[must_use]
    pub fn has_function(&self, name: &str) -> bool {
        self.0
            .resolve_types_by_name(name)
            .is_ok_and(|types| types.iter().any(|kind| matches!(kind, Type::Func(_))))
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

    fn structure(&self, name: &str) -> Result<btf_rs::Struct, KernelError> {
        let missing = || KernelError::NoField {
            field: format!("struct {name}"),
        };
        let types = self.0.resolve_types_by_name(name).map_err(|_| missing())?;
        types
            .into_iter()
            .find_map(|kind| match kind {
                Type::Struct(structure) if !structure.members.is_empty() => Some(structure),
                _ => None,
            })
            .ok_or_else(missing)
    }

    fn size(&self, name: &str) -> Result<u32, KernelError> {
        let size = self.structure(name)?.size();
        u32::try_from(size).map_err(|_| KernelError::NoField {
            field: format!("struct {name}"),
        })
    }

    /// The offset of a member, through named members in `path` and any anonymous structure around them.
    fn offset(&self, structure: &str, path: &[&str]) -> Result<u32, KernelError> {
        let field = || KernelError::NoField {
            field: format!("{structure}.{}", path.join(".")),
        };
        let mut inside = Type::Struct(self.structure(structure)?);
        let mut bits = 0;
        for name in path {
            let (member_bits, member) = self.member(&inside, name).ok_or_else(field)?;
            bits += member_bits;
            inside = member;
        }
        Ok(bits / 8)
    }

    fn member(&self, inside: &Type, name: &str) -> Option<(u32, Type)> {
        let (Type::Struct(structure) | Type::Union(structure)) = inside else {
            return None;
        };
        for member in &structure.members {
            let member_name = self.0.resolve_name(member).unwrap_or_default();
            if member_name == name {
                return Some((member.bit_offset(), self.plain_type(member)?));
            }
            if member_name.is_empty()
                && let Some(kind) = self.plain_type(member)
                && let Some((bits, found)) = self.member(&kind, name)
            {
                return Some((member.bit_offset() + bits, found));
            }
        }
        None
    }

    /// A member's type without typedefs and qualifiers.
    fn plain_type(&self, member: &btf_rs::Member) -> Option<Type> {
        let mut kind = self.0.resolve_chained_type(member).ok()?;
        loop {
            let inner = match &kind {
                Type::Typedef(inner) => self.0.resolve_chained_type(inner).ok()?,
                Type::Const(inner) | Type::Volatile(inner) => {
                    self.0.resolve_chained_type(inner).ok()?
                }
                Type::TypeTag(inner) => self.0.resolve_chained_type(inner).ok()?,
                _ => return Some(kind),
            };
            kind = inner;
        }
    }
}

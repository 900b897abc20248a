//! The user registers of a thread: where its stack begins.
//!
//! `kernel/` reads them, the native stacks of `evidence/` start from them, and between the two they cross a pipe as JSON.

use serde::{Deserialize, Serialize};

/// What unwinding needs of a thread's registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// The instruction it is at.
    pub ip: u64,
    /// Stack pointer.
    pub sp: u64,
    /// Frame pointer (`rbp`, `x29`); not known where only procfs could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fp: Option<u64>,
    /// Link register, on machines that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<u64>,
    /// Context switches of the thread so far: as long as the number stays, a blocked thread's stack has not changed. Absent
    /// where that cannot be told, and where the stack came along.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub switches: Option<u64>,
    /// The stack at the same moment, of a thread that was running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack: Option<StackCopy>,
}

/// A part of a stack, copied while its thread was interrupted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackCopy {
    /// Address of the first byte.
    pub address: u64,
    /// The bytes.
    #[serde(with = "text")]
    pub bytes: Vec<u8>,
}

/// Bytes as base64: JSON numbers would take four times the room.
mod text {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(bytes))
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(from)?;
        STANDARD.decode(text.as_bytes()).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_cross_a_pipe_as_json() {
        let sampled = Registers {
            ip: u64::MAX,
            sp: 16,
            fp: Some(0),
            lr: None,
            switches: None,
            stack: Some(StackCopy {
                address: 16,
                bytes: vec![0, 1, 254, 255],
            }),
        };
        let text = serde_json::to_string(&sampled).unwrap();
        assert!(text.contains(r#""bytes":"AAH+/w==""#), "{text}");
        assert_eq!(serde_json::from_str::<Registers>(&text).unwrap(), sampled);
    }
}

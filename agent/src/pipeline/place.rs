//! In which container and pod a process runs, from the text of its `/proc/PID/cgroup`.
//!
//! Cgroup paths are made by the kubelet and the runtime, from the root down: what a container makes itself lies below its own
//! folder. So the pod is the first one on the way down, and a folder further down that is named like another pod or container
//! changes nothing. All containers on the way, of all hierarchies, serve only to tell whether two processes share theirs: the
//! innermost alone would not, because two containers can each make a folder of the same name.

use std::collections::BTreeSet;

/// Where a process runs, as far as its cgroups tell.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Place {
    /// The container of a pod.
    pub seat: Option<Seat>,
    /// Ids of the containers that it is in, whatever they are in: outermost first, and one such list for each that hierarchies
    /// tell. Made to be compared.
    pub containers: Option<String>,
    /// A path looks like a pod's, and what is in it is of no known form; or two hierarchies contradict each other.
    pub is_unknown: bool,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seat {
    /// The pod's `metadata.uid`, or the hash that stands for it in a static pod; missing if the path begins below the pod, as it does
    /// when an agent with a cgroup namespace of its own reads it.
    pub uid: Option<String>,
    /// Id that the runtime gave the container: 64 hexadecimal digits.
    pub container: String,
}

impl Place {
    /// Reads the text of `/proc/PID/cgroup`: one line a hierarchy in version 1, one line in version 2.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        let mut place = Self::default();
        let mut contradict = false;
        let mut containers: BTreeSet<String> = BTreeSet::new();
        for path in paths {
            let parts = parts(path);
            let ids: Vec<String> = parts.iter().filter_map(|part| container_of(part)).collect();
            if !ids.is_empty() {
                containers.insert(ids.join("/"));
            }
            match seat_of(&parts) {
                Found::Nothing => {}
                Found::Unknown => place.is_unknown = true,
                Found::Seat(seat) => match &place.seat {
                    None => place.seat = Some(seat),
                    Some(known) if *known == seat => {}
                    // Each is as good as the other: neither is believed.
                    Some(_) => contradict = true,
                },
            }
        }
        if contradict {
            place.is_unknown = true;
            place.seat = None;
        }
        if !containers.is_empty() {
            let lists: Vec<String> = containers.into_iter().collect();
            place.containers = Some(lists.join(" "));
        }
        place
    }
}

enum Found {
    Nothing,
    Unknown,
    Seat(Seat),
}

/// The folders of a path; one of the form `SLICE:PREFIX:ID`, which runtimes make that were told another driver than the kubelet's, counts
/// as two.
fn parts(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    path.split('/')
        .flat_map(|part| {
            let (slice, rest) = part.split_once(':').unwrap_or((part, ""));
            [slice, rest]
        })
        .filter(|part| !part.is_empty() && *part != "..")
        .collect()
}

fn seat_of(parts: &[&str]) -> Found {
    let Some((at, uid)) = parts
        .iter()
        .enumerate()
        .find_map(|(at, part)| Some((at, pod_of(part)?)))
    else {
        // Below the pod, seen from one of its own containers, there is only the container.
        let below = matches!(parts, [only] if is_of_runtime(only));
        return match parts.first().and_then(|part| container_of(part)) {
            Some(container) if below => Found::Seat(Seat {
                uid: None,
                container,
            }),
            _ if parts.iter().any(|part| is_of_kubelet(part)) => unless_above(parts),
            _ => Found::Nothing,
        };
    };
    match parts.get(at + 1) {
        // In the pod's own folder is nobody but, now and then, a runtime.
        None => Found::Nothing,
        // The monitor of CRI-O is no part of the container.
        Some(part) if part.contains("conmon") => Found::Nothing,
        Some(part) => container_of(part).map_or(Found::Unknown, |container| {
            Found::Seat(Seat {
                uid: Some(uid),
                container,
            })
        }),
    }
}

/// A path of the kubelet without a pod in it: one of the folders above the pods, or a form nobody knows.
fn unless_above(parts: &[&str]) -> Found {
    let classes = ["kubepods", "burstable", "besteffort", "guaranteed"];
    let is_above = |part: &&str| {
        let name = part.strip_suffix(".slice").unwrap_or(part);
        classes.contains(&name.rsplit('-').next().unwrap_or(name))
    };
    let mut of_kubelet = parts.iter().skip_while(|part| !is_of_kubelet(part));
    if of_kubelet.all(is_above) {
        Found::Nothing
    } else {
        Found::Unknown
    }
}

fn is_of_kubelet(part: &str) -> bool {
    part.starts_with("kubepods") || part.contains("-kubepods")
}

fn is_of_runtime(part: &str) -> bool {
    ["cri-containerd-", "crio-"]
        .iter()
        .any(|prefix| part.starts_with(prefix))
}

/// `podUID`, or `kubepods-burstable-podUID.slice` with `_` for `-`.
fn pod_of(part: &str) -> Option<String> {
    let name = part.strip_suffix(".slice").unwrap_or(part);
    let uid = match name.rsplit_once("-pod") {
        Some((above, uid)) if is_of_kubelet(above) => uid,
        _ => name.strip_prefix("pod")?,
    };
    let uid = uid.replace('_', "-").to_ascii_lowercase();
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| *byte == b'-').count();
    let is_uid = digits == 32 && (dashes == 0 || dashes == 4) && digits + dashes == uid.len();
    is_uid.then_some(uid)
}

/// 64 hexadecimal digits, as containerd, CRI-O and Docker name containers, bare or between a prefix and `.scope`.
fn container_of(part: &str) -> Option<String> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit(['-', ':']).next().unwrap_or(part);
    let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210";
    const UID: &str = "5f0c5a2e-8a4e-4a57-9c8e-2f3a4b5c6d7e";
    const UNDER: &str = "5f0c5a2e_8a4e_4a57_9c8e_2f3a4b5c6d7e";
    const HASH: &str = "0a1b2c3d4e5f60718293a4b5c6d7e8f9";

    fn seat(uid: &str) -> Seat {
        Seat {
            uid: Some(uid.to_owned()),
            container: ID.to_owned(),
        }
    }

    #[test]
    fn pods_are_found_in_the_forms_in_use() {
        let forms = [
            // The driver cgroupfs: containerd, Docker, CRI-O.
            (format!("0::/kubepods/burstable/pod{UID}/{ID}"), UID),
            (format!("0::/kubepods/pod{UID}/{ID}"), UID),
            (format!("4:memory:/kubepods/besteffort/pod{UID}/{ID}"), UID),
            (format!("0::/kubepods/burstable/pod{UID}/crio-{ID}"), UID),
            (format!("0::/kubepods/pod{HASH}/{ID}"), HASH),
            // systemd.
            (
                format!(
                    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UNDER}.slice/cri-containerd-{ID}.scope"
                ),
                UID,
            ),
            (
                format!("0::/kubepods.slice/kubepods-pod{UNDER}.slice/crio-{ID}.scope/container"),
                UID,
            ),
            (
                format!(
                    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{HASH}.slice/docker-{ID}.scope"
                ),
                HASH,
            ),
            // A runtime that was told another driver than the kubelet's.
            (
                format!(
                    "0::/system.slice/containerd.service/kubepods-burstable-pod{UNDER}.slice:cri-containerd:{ID}"
                ),
                UID,
            ),
            // A node that is a container itself.
            (
                format!(
                    "0::/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UNDER}.slice/cri-containerd-{ID}.scope"
                ),
                UID,
            ),
            (
                format!("0::/docker/{OTHER}/kubelet/kubepods/burstable/pod{UID}/{ID}"),
                UID,
            ),
            // Seen by an agent with a cgroup namespace of its own.
            (format!("0::/../../pod{UID}/{ID}"), UID),
            (
                format!("0::/../../kubepods-burstable-pod{UNDER}.slice/cri-containerd-{ID}.scope"),
                UID,
            ),
            // A container that makes folders below its own.
            (
                format!("0::/kubepods/burstable/pod{UID}/{ID}/inner/{OTHER}"),
                UID,
            ),
            (
                format!("0::/kubepods/pod{UID}/{ID}/kubepods/pod{HASH}/{OTHER}"),
                UID,
            ),
        ];
        for (form, uid) in forms {
            let place = Place::parse(&form);
            assert_eq!(
                (place.seat, place.is_unknown),
                (Some(seat(uid)), false),
                "{form}"
            );
        }
    }

    #[test]
    fn containers_outside_pods_are_found_too() {
        let forms = [
            format!("12:cpu:/docker/{ID}"),
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("0::/machine.slice/libpod-{ID}.scope/container"),
        ];
        for form in forms {
            let place = Place::parse(&form);
            assert_eq!(place.containers.as_deref(), Some(ID), "{form}");
            assert_eq!((place.seat, place.is_unknown), (None, false), "{form}");
        }
    }

    #[test]
    fn a_sibling_container_has_no_pod_in_its_path() {
        let place = Place::parse(&format!("0::/../cri-containerd-{ID}.scope"));
        let alone = Seat {
            uid: None,
            container: ID.to_owned(),
        };
        assert_eq!(place.seat, Some(alone));
    }

    #[test]
    fn what_is_no_container_is_none() {
        for text in [
            "0::/user.slice/user-0.slice/session-1.scope",
            "0::/",
            "",
            "0::/kubepods",
            "0::/kubepods.slice/kubepods-burstable.slice",
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice",
            &format!("0::/kubepods/burstable/pod{UID}"),
            &format!("0::/kubepods.slice/kubepods-pod{UNDER}.slice/crio-conmon-{ID}.scope"),
        ] {
            let place = Place::parse(text);
            assert_eq!((place.seat, place.is_unknown), (None, false), "{text}");
        }
    }

    #[test]
    fn unknown_forms_are_told() {
        for text in [
            format!("0::/kubepods/burstable/pod{UID}/container-of-another-runtime"),
            format!("0::/kubepods/burstable/{ID}"),
            "0::/kubepods/burstable/podX".to_owned(),
        ] {
            let place = Place::parse(&text);
            assert_eq!((place.seat, place.is_unknown), (None, true), "{text}");
        }
    }

    #[test]
    fn hierarchies_that_contradict_each_other_are_not_believed() {
        let same = format!(
            "5:cpu:/kubepods/pod{UID}/{ID}\n4:memory:/kubepods/pod{UID}/{ID}\n1:name=systemd:/\n0::/"
        );
        assert_eq!(Place::parse(&same).seat, Some(seat(UID)));
        let other =
            format!("5:cpu:/kubepods/pod{UID}/{ID}\n4:memory:/kubepods/pod{HASH}/{OTHER}\n");
        let place = Place::parse(&other);
        assert_eq!((place.seat, place.is_unknown), (None, true));
    }

    #[test]
    fn two_processes_share_their_containers_only_if_all_are_the_same() {
        let containers = |text: &str| Place::parse(text).containers;
        let own = format!("0::/kubepods/pod{UID}/{ID}");
        let below = format!("{own}/workers");
        assert_eq!(containers(&own), containers(&below));
        let others = [
            // A container in it, and one of the same name in another.
            format!("{own}/{OTHER}"),
            format!("0::/kubepods/pod{HASH}/{OTHER}/{ID}"),
            // Moved in some hierarchies only.
            format!("5:cpu:/kubepods/pod{UID}/{ID}\n4:memory:/kubepods/pod{HASH}/{OTHER}"),
            format!("5:cpu:/kubepods/pod{UID}/{ID}\n0::/kubepods/pod{UID}/{ID}/{OTHER}"),
            "0::/".to_owned(),
        ];
        for (at, other) in others.iter().enumerate() {
            assert_ne!(containers(&own), containers(other), "{other}");
            assert!(
                others[at + 1..]
                    .iter()
                    .all(|another| containers(another) != containers(other)),
                "{other}"
            );
        }
        // Hierarchies without containers say nothing.
        let both = format!("12:pids:/\n5:cpu:/kubepods/pod{UID}/{ID}\n{own}");
        assert_eq!(containers(&own), containers(&both));
    }

    #[test]
    fn a_folder_that_has_been_removed_is_named_too() {
        let text = format!("0::/kubepods/pod{UID}/{ID} (deleted)");
        assert_eq!(Place::parse(&text).seat, Some(seat(UID)));
    }
}

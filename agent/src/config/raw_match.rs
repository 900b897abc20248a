//! Reading of what names processes: `match` of a target and of its engine. Each must name something; a match that is
//! true for everything is a mistake.

use std::collections::BTreeMap;

use super::model::{EngineMatcher, KubernetesMatch, Matcher};
use super::pattern::{CmdlineGlob, ExeGlob};
use super::raw::section;
use super::read::{Field, Fields, Reader};

fn exe(reader: &mut Reader<'_>, of: &Fields<'_>) -> Option<ExeGlob> {
    let field = of.field("exe")?;
    Some(
        reader
            .parsed(
                &field,
                "a glob over the basename, such as query-engine-*",
                ExeGlob::new,
            )?
            .value,
    )
}

fn cmdline(reader: &mut Reader<'_>, of: &Fields<'_>) -> Option<CmdlineGlob> {
    let field = of.field("cmdline")?;
    Some(
        reader
            .parsed(
                &field,
                "a part of the command line, with * for anything",
                CmdlineGlob::new,
            )?
            .value,
    )
}

pub(super) fn matcher(reader: &mut Reader<'_>, field: &Field<'_>) -> Option<Matcher> {
    let fields = reader.mapping(field)?;
    let names_something = ["exe", "cmdline", "kubernetes"]
        .iter()
        .any(|key| fields.field(key).is_some());
    if !names_something {
        reader.refuse(
            field,
            "matches every process",
            "at least one of exe, cmdline, kubernetes",
        );
        return None;
    }
    let kubernetes =
        section(reader, &fields, "kubernetes").and_then(|fields| kubernetes(reader, &fields));
    Some(Matcher {
        exe: exe(reader, &fields),
        cmdline: cmdline(reader, &fields),
        kubernetes,
        pids: None,
    })
}

fn kubernetes(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<KubernetesMatch> {
    let (namespace, labels) = (fields.field("namespace"), fields.field("labels"));
    if namespace.is_none() && labels.is_none() {
        reader.problems.add(
            fields.at,
            fields.path(),
            "matches every pod",
            "allowed: at least one of namespace, labels",
        );
        return None;
    }
    let namespace = namespace.and_then(|f| {
        reader
            .text(&f, "the name of a namespace")
            .map(str::to_owned)
    });
    let labels = labels.and_then(|f| reader.texts(&f)).unwrap_or_default();
    let labels: BTreeMap<_, _> = labels
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    Some(KubernetesMatch { namespace, labels })
}

pub(super) fn engine_matcher(reader: &mut Reader<'_>, item: &Field<'_>) -> Option<EngineMatcher> {
    let fields = reader.mapping(item)?;
    if fields.field("exe").is_none() && fields.field("cmdline").is_none() {
        reader.refuse(item, "matches every child", "at least one of exe, cmdline");
        return None;
    }
    Some(EngineMatcher {
        exe: exe(reader, &fields),
        cmdline: cmdline(reader, &fields),
    })
}

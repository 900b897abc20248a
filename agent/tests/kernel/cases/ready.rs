//! The readiness of engines as the node agent's page tells it over HTTP.

use std::cell::RefCell;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};

use super::Case;
use crate::harness::node::Node;
use crate::harness::victim::Victim;
use crate::harness::{ENGINE, alive, limit, make_program};
use crate::sys;

pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "ready::page_follows_engines_from_birth_to_death",
            page_follows_engines,
        ),
        Case::new(
            "ready::page_keeps_nobody_out_whose_engine_is_unknown",
            page_of_two,
        ),
    ]
}

/// Of an agent that watches what runs this program.
fn config(program: &str) -> String {
    format!(
        "export: {{ metrics: {{ listen: \"127.0.0.1:0\" }} }}\ntargets:\n  - name: proxy\n    match: {{ exe: \"{program}\" }}\n    engine: {{ match: [ {{ exe: \"query-engine-*\" }} ] }}\n"
    )
}

/// The page of an agent, and what is asked of it.
struct Page {
    address: SocketAddr,
    query: String,
}

impl Page {
    /// Status and text, by a client that knows no more of HTTP than it must.
    fn get(&self, query: &str) -> Result<(u16, String)> {
        self.ask("GET", query)
    }

    fn ask(&self, method: &str, query: &str) -> Result<(u16, String)> {
        let mut page = TcpStream::connect_timeout(&self.address, limit())
            .with_context(|| format!("cannot connect to {}", self.address))?;
        page.set_read_timeout(Some(limit()))?;
        let host = self.address;
        let request = format!(
            "{method} /ready/engines{query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        );
        page.write_all(request.as_bytes())?;
        let mut answer = String::new();
        page.read_to_string(&mut answer)
            .with_context(|| format!("no answer to {method} {query}"))?;
        let (head, text) = answer
            .split_once("\r\n\r\n")
            .context("no end of the head")?;
        let status = head.split(' ').nth(1).context("no status")?;
        Ok((status.parse()?, text.to_owned()))
    }

    /// Asks about the process until the answer has that status and these words.
    fn becomes(&self, status: u16, words: &[&str]) -> Result<String> {
        let last = RefCell::new(None);
        let is_wanted = |answer: &Result<(u16, String)>| {
            answer.as_ref().is_ok_and(|(found, text)| {
                *found == status && words.iter().all(|word| text.contains(word))
            })
        };
        let waited = alive::until(&format!("the page says {status} {words:?}"), || {
            let answer = self.get(&self.query);
            let wanted = is_wanted(&answer);
            *last.borrow_mut() = Some(answer);
            wanted
        });
        let last = last.into_inner();
        waited.with_context(|| format!("its last answer: {last:?}"))?;
        let answer = last.context("nothing was asked")??;
        Ok(answer.1)
    }
}

/// An agent, and where its page is.
fn start(program: &str) -> Result<(Node, SocketAddr)> {
    // Its log says where.
    let mut node = Node::start_logging(&config(program), "info")?;
    let told = node.next(&["metrics: http://"])?;
    let address = told
        .rsplit_once("http://")
        .and_then(|(_, rest)| rest.strip_suffix("/metrics"))
        .with_context(|| format!("no address: {told}"))?;
    let address = address.parse()?;
    Ok((node, address))
}

/// No engine listens, one accepts, it is gone, the next one accepts, the loop is gone.
fn page_follows_engines() -> Result<()> {
    let program = make_program("ready-a-test")?;
    let (mut node, address) = start("ready-a-test")?;
    let mut victim = Victim::start_as(&program, &["loop", "epoll_wait"])?;
    let pid = victim.pid;
    let page = Page {
        address,
        query: format!("?pid={pid}"),
    };
    node.next(&[&format!("[{pid}]"), "is an event loop"])?;
    let port = victim.ask("port", "port")?;
    let of_process = format!("{pid} proxy");

    // It listens when it is told to, and not before it was seen that it does not.
    let engine = victim.spawn("engine", &format!("late-{port}-woken"), ENGINE)?;
    victim.tell(&format!("knock {port} 20 once"))?;
    let starting = page.becomes(
        503,
        &[&of_process, "EngineStarting for", "connections refused"],
    )?;
    ensure!(
        starting.lines().count() == 1,
        "more than one process: {starting}"
    );
    let (status, all) = page.get("")?;
    ensure!(status == 503 && all.contains(&of_process), "{status} {all}");
    alive::signal(engine, sys::WAKE)?;
    victim.answer("knocked")?;
    page.becomes(200, &[&of_process, "EngineAccepts"])?;
    for query in ["", "?target=proxy", &format!("?pid={pid}&target=proxy")] {
        let (status, text) = page.get(query)?;
        ensure!(
            status == 200 && text.contains(&of_process),
            "{query}: {status} {text}"
        );
    }
    for (query, expected) in [
        ("?pid=1", 404),
        ("?target=other", 404),
        ("?pod=shop/checkout", 404),
        ("?pid=none", 400),
        ("?name=proxy", 400),
    ] {
        let (status, text) = page.get(query)?;
        ensure!(status == expected, "{query}: {status} {text}");
    }
    ensure!(
        page.ask("POST", "")?.0 == 405,
        "a question may not change anything"
    );

    // Gone, and the next one.
    alive::signal(engine, libc::SIGKILL)?;
    page.becomes(503, &[&of_process, "EngineStarting for"])?;
    victim.spawn("next", &format!("late-{port}-0"), ENGINE)?;
    victim.ask(&format!("knock {port} 20 hold"), "knocked")?;
    page.becomes(200, &[&of_process, "EngineAccepts"])?;
    victim.quit()?;
    page.becomes(404, &["no such loop"])?;
    node.end().map(|_| ())
}

/// A loop that is older than the agent, and may have an engine that was not seen; and one whose engine starts.
fn page_of_two() -> Result<()> {
    let program = make_program("ready-b-test")?;
    let older = Victim::start_as(&program, &["loop", "epoll_wait"])?;
    let (mut node, address) = start("ready-b-test")?;
    let page_of = |pid: u32| Page {
        address,
        query: format!("?pid={pid}"),
    };
    let unknown = [&format!("{} proxy", older.pid), "EngineUnknown"];
    page_of(older.pid).becomes(200, &unknown)?;
    let mut younger = Victim::start_as(&program, &["loop", "epoll_wait"])?;
    node.next(&[&format!("[{}]", younger.pid), "is an event loop"])?;
    let port = younger.ask("port", "port")?;
    younger.spawn("engine", &format!("late-{port}-woken"), ENGINE)?;
    let starting = [&format!("{} proxy", younger.pid), "EngineStarting for"];
    page_of(younger.pid).becomes(503, &starting)?;
    // One that starts is enough for no.
    let (status, both) = page_of(0).get("?target=proxy")?;
    let has = |words: [&str; 2]| {
        let mut lines = both.lines();
        lines.any(|line| words.iter().all(|word| line.contains(word)))
    };
    ensure!(
        status == 503 && has(unknown) && has(starting),
        "{status} {both}"
    );
    page_of(older.pid).becomes(200, &unknown)?;
    younger.quit()?;
    older.quit()?;
    node.end().map(|_| ())
}

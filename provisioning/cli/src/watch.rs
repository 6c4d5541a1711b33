//! `cairnctl watch`: nodes as they change, from the controller's server-sent events.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::args::Global;
use crate::client::{self, Body, Client};
use crate::error::Error;
use crate::node::{NodeView, node_row, nodes_table};
use crate::output::Output;
use crate::repo;

/// Bytes of one event: a node's view with its longest texts.
const EVENT_BYTES: usize = 1 << 20;
/// Pause before connecting again after a break.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) fn run(once: bool, global: &Global, out: &Output) -> Result<(), Error> {
    let client = Client::new(global)?;
    client::run(async {
        if once {
            let nodes: Vec<Value> = client.get("/v1/nodes").await?;
            if out.is_json() {
                return nodes.iter().try_for_each(|node| out.print_line(node, |_| String::new()));
            }
            let views: Vec<NodeView> =
                nodes.into_iter().filter_map(|node| serde_json::from_value(node).ok()).collect();
            return out.print(&(), |()| nodes_table(&views, repo::now(global).0));
        }
        let mut connected = false;
        loop {
            match follow(&client, global, out, &mut connected).await {
                // A refusal stays one; a break after a success is waited out.
                Err(error @ Error::Unreachable { .. }) if connected => {
                    eprintln!("cairnctl: {error}; connecting again")
                }
                Err(error) => return Err(error),
                Ok(()) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    })
}

async fn follow(client: &Client, global: &Global, out: &Output, connected: &mut bool) -> Result<(), Error> {
    let mut response = client.send(Method::GET, "/v1/watch", Body::None).await?;
    *connected = true;
    let mut events = Events::default();
    loop {
        let part = response
            .chunk()
            .await
            .map_err(|e| Error::Unreachable { url: "the controller".to_owned(), why: e.to_string() })?;
        let Some(part) = part else { return Ok(()) };
        for data in events.push(&part)? {
            let Ok(node) = serde_json::from_str::<Value>(&data) else { continue };
            out.print_line(&node, |node| line(node, repo::now(global).0))?;
        }
    }
}

fn line(node: &Value, now: u64) -> String {
    use serde::Deserialize as _;
    let view = NodeView::deserialize(node).unwrap_or_default();
    let row = node_row(&view, now);
    let [site, node, state, stage, generation, heartbeats, _, waits] = row.as_slice() else {
        return String::new();
    };
    let waits = if waits == "-" { String::new() } else { format!("  waits: {waits}") };
    let text =
        format!("{site}/{node}  {state}  {stage}  generation {generation}  {heartbeats} heartbeats{waits}");
    cairn_protocol::limits::clean_text(&text)
}

/// Puts the `data:` of server-sent events together (HTML standard, 9.2.6).
#[derive(Debug, Default)]
struct Events {
    pending: Vec<u8>,
    data: String,
}

impl Events {
    /// Takes bytes; returns the data of the events that ended in them.
    fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, Error> {
        self.pending.extend_from_slice(bytes);
        let mut done = Vec::new();
        while let Some(end) = self.pending.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            if line.is_empty() {
                if !self.data.is_empty() {
                    done.push(std::mem::take(&mut self.data));
                }
            } else if let Some(data) = line.strip_prefix("data:") {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(data.strip_prefix(' ').unwrap_or(data));
            }
        }
        if self.pending.len() + self.data.len() > EVENT_BYTES {
            return Err(Error::Failed("the controller sends an event that never ends".to_owned()));
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_end_at_an_empty_line() {
        let mut events = Events::default();
        assert!(events.push(b": hello\n\nevent: node\nda").unwrap().is_empty());
        assert_eq!(events.push(b"ta: {\"a\":1}\r\n\r\ndata:x\ndata: y\n\n").unwrap(), ["{\"a\":1}", "x\ny"]);
        assert!(events.push(&vec![b'x'; EVENT_BYTES + 1]).is_err());
    }

    proptest! {
        #[test]
        fn where_bytes_are_cut_does_not_matter(cut in 0usize..40) {
            let text = b"data: one\n\n:k\ndata: two\ndata: 2\n\n";
            let cut = cut.min(text.len());
            let mut events = Events::default();
            let mut all = events.push(&text[..cut]).unwrap();
            all.extend(events.push(&text[cut..]).unwrap());
            prop_assert_eq!(all, ["one", "two\n2"]);
        }
    }
}

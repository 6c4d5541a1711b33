//! What a node says on its console, and waiting for it.

use std::time::Duration;

use cairn_protocol::console::{Line, Said};
use cairn_protocol::stage::Stage;

use super::{Error, Node};
use crate::tail::Tail;

impl Node {
    /// Its console.
    #[must_use]
    pub fn console(&self) -> &Tail {
        &self.tail
    }

    /// Where the console stands now; later waits look only at what comes after.
    #[must_use]
    pub fn mark(&self) -> usize {
        self.tail.mark()
    }

    /// Waits for a console line since `mark` that `pick` answers to.
    ///
    /// # Errors
    /// When it does not come in time, with the condition and the console's file.
    pub fn wait_console<T>(
        &self,
        mark: usize,
        patience: Duration,
        condition: &str,
        pick: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, Error> {
        let waited = self.tail.wait(mark, patience, condition, pick);
        waited.map_err(|source| Error::Timeout { node: self.spec.name.clone(), source })
    }

    /// Waits for a console line that holds `text`, and returns it.
    ///
    /// # Errors
    /// As [`Node::wait_console`].
    pub fn wait_text(&self, mark: usize, patience: Duration, text: &str) -> Result<String, Error> {
        self.wait_console(mark, patience, text, |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Waits until a stage is done.
    ///
    /// # Errors
    /// As [`Node::wait_console`].
    pub fn wait_stage(&self, mark: usize, patience: Duration, stage: Stage) -> Result<Line, Error> {
        self.wait_said(mark, patience, &format!("stage {stage} done"), |line| {
            line.stage == stage && line.said == Said::Done
        })
    }

    /// Waits for a refusal with this code, and returns its line.
    ///
    /// # Errors
    /// As [`Node::wait_console`].
    pub fn wait_refused(&self, mark: usize, patience: Duration, code: &str) -> Result<Line, Error> {
        self.wait_said(
            mark,
            patience,
            &format!("refusal {code}"),
            |line| matches!(&line.said, Said::Refused { code: said, .. } if said == code),
        )
    }

    /// Waits for a line of the agent.
    ///
    /// # Errors
    /// As [`Node::wait_console`].
    pub fn wait_said(
        &self,
        mark: usize,
        patience: Duration,
        condition: &str,
        wanted: impl Fn(&Line) -> bool,
    ) -> Result<Line, Error> {
        self.wait_console(mark, patience, condition, |text| Line::parse(text).filter(|line| wanted(line)))
    }
}

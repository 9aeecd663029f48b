//! What a command that fails tells the person at the terminal: what failed, why, and what to do.
//!
//! Printed once, by `main`, to standard error. Never holds a secret: tokens are not part of any message.

use std::error::Error;
use std::fmt::Write;
use std::io;

use longshore_api::client::ClientError;
use longshore_api::problem::Problem;

use crate::exit::Exit;
use crate::output;

/// The end of a command that did not do what was asked.
#[derive(Debug)]
pub struct Fault(Box<Inner>);

#[derive(Debug)]
struct Inner {
    exit: Exit,
    message: String,
    causes: Vec<String>,
    /// Parts of what was given that were at fault, one per line.
    details: Vec<String>,
    hint: Option<String>,
    code: Option<String>,
    quiet: bool,
}

pub type Outcome<T = Exit> = Result<T, Fault>;

impl Fault {
    pub fn new(message: impl Into<String>) -> Fault {
        Fault(Box::new(Inner {
            exit: Exit::Error,
            message: message.into(),
            causes: Vec::new(),
            details: Vec::new(),
            hint: None,
            code: None,
            quiet: false,
        }))
    }

    /// The arguments do not make sense together, or one of them is not what it should be.
    pub fn usage(message: impl Into<String>) -> Fault {
        Fault::new(message).exit(Exit::Usage)
    }

    /// Everything was said already, or nobody listens any more.
    pub fn quiet(exit: Exit) -> Fault {
        let mut fault = Fault::new("").exit(exit);
        fault.0.quiet = true;
        fault
    }

    /// An error with its sources.
    pub fn of(error: &dyn Error) -> Fault {
        let message = error.to_string();
        let causes = sources(error, &message);
        let mut fault = Fault::new(message);
        fault.0.causes = causes;
        fault
    }

    pub fn exit(mut self, exit: Exit) -> Fault {
        self.0.exit = exit;
        self
    }

    pub fn cause(mut self, error: &dyn Error) -> Fault {
        let cause = error.to_string();
        let deeper = sources(error, &cause);
        self.0.causes.push(cause);
        self.0.causes.extend(deeper);
        self
    }

    pub fn details(mut self, details: impl IntoIterator<Item = String>) -> Fault {
        self.0.details.extend(details);
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.0.hint = Some(hint.into());
        self
    }

    pub fn code(mut self, code: impl Into<String>) -> Fault {
        self.0.code = Some(code.into());
        self
    }

    pub fn status(&self) -> Exit {
        self.0.exit
    }

    /// What failed and why, without what to do.
    pub fn summary(&self) -> String {
        let inner = &self.0;
        let parts = std::iter::once(&inner.message).chain(&inner.details).chain(&inner.causes);
        parts.map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// All of it on one line, for logs.
    pub fn one_line(&self) -> String {
        let mut text =
            self.text().replacen("error: ", "", 1).replace("\n  cause: ", ": ").replace("\n  hint: ", "; ");
        text.truncate(text.trim_end().len());
        text.replace('\n', " ")
    }

    /// What to do.
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The text for standard error; empty when there is nothing to say.
    pub fn text(&self) -> String {
        let inner = &self.0;
        if inner.quiet {
            return String::new();
        }
        let mut text = format!("error: {}\n", block(&inner.message));
        for detail in &inner.details {
            let _ = writeln!(text, "  {}", block(detail));
        }
        for cause in &inner.causes {
            let _ = writeln!(text, "  cause: {}", block(cause));
        }
        if let Some(hint) = &inner.hint {
            let _ = writeln!(text, "  hint: {}", block(hint));
        }
        if let Some(code) = &inner.code {
            text.pop();
            let _ = writeln!(text, " [{}]", output::clean(code));
        }
        text
    }
}

/// Text of several lines, the later ones indented below the first.
fn block(text: &str) -> String {
    output::clean_lines(text.trim_end()).replace('\n', "\n    ")
}

/// The sources of an error whose text is `above`, without those that the text above them tells already.
fn sources(error: &dyn Error, above: &str) -> Vec<String> {
    let mut sources: Vec<String> = Vec::new();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !sources.last().map_or(above, String::as_str).contains(&text) {
            sources.push(text);
        }
        next = source.source();
    }
    sources
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Fault {
        match error {
            ClientError::Problem(problem) => from_problem(*problem),
            ClientError::Unreachable { source, .. } if source.is_builder() => {
                Fault::usage("the address of the control plane is not a URL")
                    .cause(root(&source))
                    .hint("give it as --server http://HOST:PORT")
            }
            // The layers between say nothing that a person could use.
            ClientError::Unreachable { base, source } => Fault::new(format!(
                "could not reach the control plane at {base}"
            ))
            .exit(Exit::Unreachable)
            .cause(root(&source))
            .hint(
                "is it running? `longshore up` starts one here; --server or LONGSHORE_SERVER names another",
            ),
            error @ ClientError::Unexpected { .. } => Fault::of(&error)
                .exit(Exit::Unreachable)
                .hint("does --server name the API of a control plane (port 7117 by default)?"),
        }
    }
}

fn root<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root
}

fn from_problem(problem: Problem) -> Fault {
    let exit = match problem.status {
        401 | 403 => Exit::Unreachable,
        _ => Exit::Error,
    };
    let parts = problem.errors.iter().filter(|part| !problem.detail.contains(&part.detail));
    let details = parts.map(|part| format!("{}: {}", part.at, part.detail));
    let fault = Fault::new(problem.detail.clone()).exit(exit).details(details).code(problem.code.clone());
    match problem.hint {
        Some(hint) => fault.hint(hint),
        None => fault,
    }
}

/// Writing to standard output or standard error failed.
impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            // `longshore tasks list | head`: the reader has what it wants.
            io::ErrorKind::BrokenPipe => Fault::quiet(Exit::Done),
            _ => Fault::new("could not write the output").cause(&error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_what_why_and_what_to_do_in_this_order() {
        let cause = io::Error::other("disk on fire");
        let fault = Fault::new("could not do it")
            .cause(&cause)
            .details(["line 3: bad".into()])
            .hint("do that")
            .code("x1");
        assert_eq!(
            fault.text(),
            "error: could not do it\n  line 3: bad\n  cause: disk on fire\n  hint: do that [x1]\n"
        );
    }

    #[test]
    fn a_cause_that_was_told_already_is_not_told_again() {
        #[derive(Debug, thiserror::Error)]
        #[error("bad: {0}")]
        struct Outer(#[source] io::Error);
        let fault = Fault::of(&Outer(io::Error::other("inner")));
        assert_eq!(fault.text(), "error: bad: inner\n");
    }

    #[test]
    fn a_fault_fits_one_line_of_a_log() {
        let fault = Fault::new("a").cause(&io::Error::other("b\nc")).hint("d").code("e");
        assert_eq!(fault.one_line(), "a: b     c; d [e]");
    }

    #[test]
    fn text_from_outside_cannot_steer_the_terminal() {
        assert!(!Fault::new("a\u{1b}[2Jb").text().contains('\u{1b}'));
    }

    #[test]
    fn a_refused_token_is_status_five() {
        let problem = Problem::new(401, "bad_token", "no");
        let fault = Fault::from(ClientError::Problem(Box::new(problem)));
        assert_eq!(fault.status(), Exit::Unreachable);
        assert_eq!(fault.text(), "error: no [bad_token]\n");
    }
}

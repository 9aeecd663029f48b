//! Asks the person at the terminal before something is done that is hard to take back.

use std::io::{self, IsTerminal, Write};

use crate::error::{Fault, Outcome};

/// True if the person says yes. `what` completes "there is nobody to ask whether to …".
///
/// Errors: nobody is there to ask.
pub fn confirmed(question: &str, what: &str, hint: &str) -> Outcome<bool> {
    if !io::stdin().is_terminal() {
        return Err(Fault::usage(format!("there is nobody to ask whether to {what}")).hint(hint));
    }
    let _ = write!(io::stderr(), "{question} [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

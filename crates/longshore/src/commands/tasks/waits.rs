//! What a task waits for, and what its agent asked, in words.

use longshore_api::waiting::{Question, Waiting};
use longshore_core::json::Json;

use crate::error::Outcome;
use crate::output::{self, Table, ago, shorten};

/// What a task that waits is worth saying of. Without more it was interrupted: older control planes knew nothing else.
pub fn remark(waiting: Option<&Waiting>) -> String {
    let until = |text: String| match waiting.and_then(|it| it.until) {
        Some(at) => format!("{text}, until {at}"),
        None => text,
    };
    match waiting.map(|it| (&*it.what, it)) {
        Some(("question", it)) => {
            let name = it.question.as_deref().unwrap_or_default();
            until(format!("asks you `{name}`: `longshore tasks input ID ANSWER`"))
        }
        Some(("children", it)) => {
            let which = it.children.as_deref().unwrap_or("all");
            let of = if it.of.is_empty() { String::new() } else { format!(" ({})", it.of.join(", ")) };
            until(format!("waits for {which} of its children{of}"))
        }
        _ => "was interrupted and waits for you: `longshore tasks input ID resume` or `fail`".into(),
    }
}

pub fn questions(questions: &[Question]) -> Outcome<()> {
    if questions.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&["QUESTION", "ASKED", "STATE", "TEXT", "ANSWER"]);
    for asked in questions {
        let text = asked.question.read::<String>().unwrap_or_else(|_| asked.question.text().to_owned());
        table.row(vec![
            asked.name.clone(),
            ago(asked.asked_at),
            Json::of(&asked.state).read::<String>().unwrap_or_default(),
            shorten(&text, 60),
            shorten(asked.answer.as_ref().map_or("", Json::text), 40),
        ]);
    }
    output::line("")?;
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(what: &str) -> Waiting {
        Waiting { what: what.into(), children: None, of: Vec::new(), question: None, until: None }
    }

    #[test]
    fn each_kind_of_waiting_says_what_to_do_or_what_it_is_for() {
        let asks = Waiting { question: Some("ok".into()), ..waiting("question") };
        assert_eq!(remark(Some(&asks)), "asks you `ok`: `longshore tasks input ID ANSWER`");
        let any =
            Waiting { children: Some("any".into()), of: vec!["a".into(), "b".into()], ..waiting("children") };
        assert_eq!(remark(Some(&any)), "waits for any of its children (a, b)");
        for interrupted in [None, Some(&waiting("interruption"))] {
            assert!(remark(interrupted).contains("`longshore tasks input ID resume` or `fail`"));
        }
    }
}

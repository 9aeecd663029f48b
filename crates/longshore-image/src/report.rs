//! What a check tells: as data for programs, as text for people.

use std::fmt::Write;

use serde::Serialize;

use crate::allow::Rule;
use crate::finding::{Finding, Severity};
use crate::merge::mib;
use crate::prove::Proof;
use crate::stack::Stack;

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub image: String,
    pub id: String,
    pub tags: Vec<String>,
    /// `linux/amd64`
    pub platform: String,
    pub stack: Stack,
    /// Of the files of all layers, unpacked.
    pub bytes: u64,
    pub layers: usize,
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Findings that a rule allows; they are not listed.
    pub allowed: usize,
    /// What was seen when it ran; absent if it did not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

impl Report {
    /// Takes in what a run showed.
    pub fn prove(&mut self, proof: Proof, findings: Vec<Finding>, allow: &[Rule]) {
        self.proof = Some(proof);
        self.findings.extend(findings);
        self.settle(allow);
    }

    /// Sorts, and takes out what is allowed.
    pub fn settle(&mut self, allow: &[Rule]) {
        let before = self.findings.len();
        self.findings.retain(|finding| !allow.iter().any(|rule| rule.allows(finding)));
        self.allowed += before - self.findings.len();
        self.findings.sort();
        self.findings.dedup();
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    /// For people. `paint` colours the word that says how bad a finding is. What comes from the image is cleaned of what
    /// a terminal would act on.
    pub fn text(&self, paint: impl Fn(Severity, &str) -> String) -> String {
        let mut text = format!(
            "{}  {}  {}, {}, {} layers, {}\n",
            clean(&self.image),
            self.id.get(..19).unwrap_or(&self.id),
            self.stack,
            clean(&self.platform),
            self.layers,
            mib(self.bytes)
        );
        for finding in &self.findings {
            let word = paint(finding.severity, finding.severity.as_str());
            let pad = " ".repeat(8 - finding.severity.as_str().len().min(8));
            let line = finding.dockerfile_line.map_or(String::new(), |line| format!(" (Dockerfile:{line})"));
            let _ =
                write!(text, "\n{word}{pad} {}: {}{line}\n", finding.code, clean(&finding.at.to_string()));
            let _ = writeln!(text, "         {}", clean(&finding.what));
            if let Some(step) = &finding.made_by {
                let _ = writeln!(text, "         made by: {}", clean(step));
            }
            let _ = writeln!(text, "         fix: {}", finding.fix);
        }
        if let Some(proof) = &self.proof {
            let _ = write!(text, "\n{}", proof.text());
        }
        let _ = writeln!(text, "\n{}", self.summary());
        text
    }

    pub fn summary(&self) -> String {
        let told = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let parts = [
            told(self.count(Severity::Error), "error"),
            told(self.count(Severity::Warning), "warning"),
            told(self.count(Severity::Info), "note"),
        ];
        let allowed = if self.allowed == 0 { String::new() } else { format!("; {} allowed", self.allowed) };
        parts.join(", ") + &allowed
    }
}

/// One line, with control characters written out.
fn clean(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect()
}

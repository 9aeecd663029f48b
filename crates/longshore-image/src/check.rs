//! The whole of a check: configuration, layers and Dockerfile put together, allowed findings taken out.

use crate::allow::Rule;
use crate::archive::Archive;
use crate::config;
use crate::finding::{Code, Finding, Where};
use crate::merge::{self, Merged};
use crate::report::Report;

/// What the check is held to.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// How the image was named.
    pub name: String,
    /// Text of the Dockerfile, if there is one.
    pub dockerfile: Option<String>,
    pub allow: Vec<Rule>,
    /// Bytes over all layers, instead of what its stack has.
    pub budget: Option<u64>,
}

pub fn check(archive: Archive, asked: &Asked) -> Report {
    let runtime = archive.config.runtime();
    let user = runtime.user.split(':').next().and_then(|user| user.parse().ok()).filter(|user| *user != 0);
    let Merged { findings: in_layers, stack, bytes, passwd } =
        merge::merge(&archive.layers, user, asked.budget);
    let mut findings = config::check(&archive.config, passwd.as_deref());
    findings.extend(archive.faults);
    findings.extend(in_layers);
    made_by(&mut findings, &archive.config.steps(archive.layers.len()));
    if let Some(text) = &asked.dockerfile {
        beside(&mut findings, crate::dockerfile::lint(text));
    }
    let mut report = Report {
        image: asked.name.clone(),
        id: archive.id,
        tags: archive.tags,
        platform: format!("{}/{}", archive.config.os, archive.config.architecture),
        stack,
        bytes,
        layers: archive.layers.len(),
        findings,
        allowed: 0,
        proof: None,
    };
    report.settle(&asked.allow);
    report
}

fn made_by(findings: &mut [Finding], steps: &[String]) {
    for finding in findings {
        if let Where::Layer { layer, .. } = finding.at {
            // A base that was imported from a folder says nothing.
            finding.made_by = steps.get(layer - 1).filter(|step| !step.is_empty()).cloned();
        }
    }
}

/// What image and Dockerfile both show is one finding, with the line that makes it.
fn beside(findings: &mut Vec<Finding>, of_file: Vec<Finding>) {
    for found in of_file {
        let Where::Dockerfile { line } = found.at else { continue };
        let by_image = matches!(
            found.code,
            Code::UserRoot
                | Code::ShellEntrypoint
                | Code::NoHealthcheck
                | Code::ModelInEnv
                | Code::UrlInEnv
                | Code::ConfigInEnv
        );
        let same = |other: &&mut Finding| {
            let about = matches!(other.at, Where::Config | Where::Command) || other.what == found.what;
            other.code == found.code && about && other.dockerfile_line.is_none()
        };
        match findings.iter_mut().find(same) {
            Some(known) => known.dockerfile_line = Some(line),
            // The image is what counts: another stage, or another build, has it otherwise.
            None if by_image => {}
            None => findings.push(found),
        }
    }
}

#[cfg(test)]
mod tests;

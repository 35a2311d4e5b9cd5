//! A certificate on one page, to read and to print.

use std::fmt::{self, Display, Write as _};

use serde_json::Value;

use crate::{
    audit::{
        certificate::Certificate,
        statement::{Statement, VersionFacts},
    },
    domain::deletion::Guarantee,
};

/// Targets that are listed one by one, so that it stays one page; the JSON certificate lists all.
const TARGETS_MAX: usize = 6;

const STYLE: &str = "\
@page{size:A4;margin:11mm}\
body{font:13px/1.4 system-ui,sans-serif;color:#111;max-width:48rem;margin:1.5rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0}h2{font-size:1rem;margin:1rem 0 .2rem}\
table{border-collapse:collapse;width:100%}\
th{text-align:left;font-weight:600;width:11rem;vertical-align:top}\
th,td{padding:.1rem .4rem .1rem 0}\
code{font-size:.85em;overflow-wrap:anywhere}ul{margin:.2rem 0;padding-left:1.2rem}\
.guarantee{display:inline-block;border:1px solid #111;padding:.1rem .6rem;margin:.4rem 0}\
.measured{columns:2}.measured h2{column-span:all}.measured tr{break-inside:avoid}\
@media print{body{margin:0;max-width:none;font:9px/1.2 system-ui,sans-serif}h2{margin:.4rem 0 .1rem}}";

pub fn render(certificate: &Certificate, verifier_key: &str) -> String {
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut page, certificate, verifier_key);
    page
}

fn write(page: &mut String, certificate: &Certificate, verifier_key: &str) -> fmt::Result {
    let statement = certificate.statement();
    let Statement { request, batch, completion, .. } = statement;
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Certificate of deletion {id}</title><style>{STYLE}</style></head><body>\
         <h1>Certificate of deletion</h1>\
         <p class=\"guarantee\">{guarantee}</p>",
        id = request.id,
        guarantee = match statement.guarantee {
            Guarantee::Approximate => "Guarantee: approximate, as far as the evidence says",
            Guarantee::Exact => "Guarantee: exact, by weights that never saw the samples",
        },
    )?;
    open(page, "What was asked")?;
    row(page, "Request", code(request.id))?;
    row(page, "Model", format_args!("{} {}", Escaped(&request.model), code(request.model_id)))?;
    row(page, "Received", request.received_at)?;
    row(page, "Due by", request.due_by)?;
    for extension in &request.extensions {
        let (before, at) = (extension.previous_due_by, extension.extended_at);
        row(page, "Extended", format_args!("from {before}, on {at}"))?;
    }
    for target in request.targets.iter().take(TARGETS_MAX) {
        let kind = target.kind.as_str();
        let samples = count(target.samples, "sample");
        let why = target.rejection.map_or("", |rejection| rejection.as_str());
        row(page, kind, format_args!("{} {samples} {why}", code(target.key)))?;
    }
    if let Some(more) = request.targets.len().checked_sub(TARGETS_MAX).filter(|more| *more > 0) {
        row(page, "and", format_args!("{more} targets more, listed in the JSON certificate"))?;
    }
    close(page)?;

    open(page, "What was done")?;
    row(page, "Deleted", count(request.samples, "sample"))?;
    row(page, "Erased", format_args!("{} with the batch {}", batch.erased_at, code(batch.id)))?;
    match &statement.version {
        Some(version) => write_version(page, version)?,
        None => row(page, "Weights", "no version held the samples, so that none was changed")?,
    }
    row(page, "Completed", completion.completed_at)?;
    if let Some(epoch) = completion.excluded_from_epoch {
        row(page, "Excluded from", format_args!("version {epoch} on"))?;
    }
    for destroyed in &statement.weights_destroyed {
        let (epoch, at) = (destroyed.epoch, destroyed.destroyed_at);
        let weights = code(destroyed.weights);
        row(page, "Weights destroyed", format_args!("version {epoch}, {at} {weights}"))?;
    }
    if let Some(settlement) = &statement.settlement {
        row(page, "Settled", settlement.settled_at)?;
        write_version(page, &settlement.version)?;
    }
    for lifted in &statement.tombstones_lifted {
        let (kind, key, at) = (lifted.kind.as_str(), code(lifted.key), lifted.lifted_at);
        row(page, "May come back", format_args!("{kind} {key}, since {at}"))?;
    }
    close(page)?;

    if let Value::Object(fields) = &batch.evidence {
        page.push_str("<div class=\"measured\">");
        open(page, "What was measured")?;
        for (name, value) in fields {
            row(page, Escaped(name), code(value))?;
        }
        close(page)?;
        page.push_str("</div>");
    }

    page.push_str("<h2>What this does not show</h2><ul>");
    for limit in certificate.does_not_show() {
        write!(page, "<li>{}</li>", Escaped(limit))?;
    }
    page.push_str("</ul>");

    open(page, "How to check it")?;
    let indices: Vec<_> = certificate.leaves().iter().map(|leaf| leaf.index.to_string()).collect();
    row(page, "Log entries", indices.join(", "))?;
    row(page, "Log's key", code(verifier_key))?;
    let text = certificate.checkpoint().split("\n\n").next().unwrap_or_default();
    row(page, "Checkpoint", code(text.replace('\n', " ")))?;
    let path = format!("/v1/deletion-requests/{}/certificate", request.id);
    row(page, "Certificate", format_args!("{} as JSON", code(path)))?;
    row(page, "Command", code("forgetd verify certificate.json --key KEY"))?;
    close(page)?;
    page.push_str("</body></html>\n");
    Ok(())
}

fn write_version(page: &mut String, version: &VersionFacts) -> fmt::Result {
    let (epoch, cause, at) = (version.epoch, version.cause.as_str(), version.published_at);
    row(page, "Version", format_args!("{epoch} ({cause}), {at}"))?;
    if let Some(before) = version.weights_before {
        row(page, "Weights before", code(before))?;
    }
    row(page, "Weights after", code(version.weights_after))?;
    row(page, "Method", code(&version.method))?;
    row(page, "Made by", format_args!("forgetd {}", Escaped(&version.forgetd)))
}

fn open(page: &mut String, title: &str) -> fmt::Result {
    write!(page, "<h2>{title}</h2><table>")
}

fn close(page: &mut String) -> fmt::Result {
    page.write_str("</table>")
}

/// Both must be escaped already.
fn row(page: &mut String, name: impl Display, value: impl Display) -> fmt::Result {
    write!(page, "<tr><th>{name}</th><td>{value}</td></tr>")
}

fn code(value: impl Display) -> String {
    format!("<code>{}</code>", Escaped(&value.to_string()))
}

fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Text as HTML shows it.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_the_ledger_is_no_markup() {
        assert_eq!(
            code("<script>\"a\" & 'b'</script>"),
            "<code>&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;&lt;/script&gt;</code>"
        );
        assert_eq!(
            (count(1, "sample"), count(2, "sample")),
            ("1 sample".into(), "2 samples".into())
        );
    }
}

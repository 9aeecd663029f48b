//! `longshore llm-sim`: a simulated LLM provider, until a signal; then its bill.

use std::net::SocketAddr;
use std::path::PathBuf;

use longshore_simulate::{Bill, Fault as Trouble, Latency, Limits, Options, Pace, Price, Prices, Sim, Trace};
use serde_json::json;

use crate::cli::Format;
use crate::error::{Fault, Outcome};
use crate::exit::Exit;
use crate::output::{self, Table, shorten};
use crate::signals::Stop;

const AFTER: &str = "\
Speaks OpenAI's chat completions, responses, embeddings and models, and Anthropic's messages. The same request always gets \
the same answer. `tools=N` in the last text of the user asks for N rounds of tool calls (2 without it), `parallel=K` for K \
calls in each.

A fault is MATCH,WHAT[,times=N|always]. MATCH: nth=N, body=TEXT, model=NAME, rate=SHARE, or none for every call. WHAT: \
status=CODE[,retry-after-ms=MS], overloaded, drop-before-head, drop-mid-stream=CHUNKS, error-event=CHUNKS, stall=CHUNKS, \
slow-first-token-ms=MS, late-answer-ms=MS, html, wrong-content-length, endless-chunks, malformed-sse, missing-usage, gzip, \
no-finish. It happens once, a rate always, unless `times` says otherwise.

While it runs: GET and DELETE /sim/bill, GET /sim/waiting, POST /sim/faults with a JSON list, POST /sim/hold with \
{\"held\": true}.";

#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    addr: SocketAddr,

    /// Another seed gives other answers
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Refuse every other API key
    #[arg(long, value_name = "KEY")]
    key: Option<String>,

    /// A model that exists, repeatable; without it every name is one
    #[arg(long = "models", value_name = "NAME", value_delimiter = ',')]
    models: Vec<String>,

    /// How long answers take: none, fixed:MS until the first token, or real [default: none, with --trace real]
    #[arg(long, value_name = "PACE", value_parser = pace)]
    latency: Option<Pace>,

    /// Milliseconds until the first token, instead of what --latency says
    #[arg(long, value_name = "MS")]
    ttft: Option<u64>,

    /// Milliseconds for each further token, instead of what --latency says
    #[arg(long, value_name = "MS", value_parser = token_ms)]
    token_ms: Option<f64>,

    /// Divides every wait
    #[arg(long, value_name = "X", default_value = "1", value_parser = speed)]
    speed: f64,

    /// CSV file with the lengths of answers (output_tokens or GeneratedTokens) and their durations (api_time_s)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,

    /// Requests per minute and model
    #[arg(long, value_name = "N")]
    rpm: Option<u64>,

    /// Tokens per minute and model
    #[arg(long, value_name = "N")]
    tpm: Option<u64>,

    /// Dollars per million tokens, repeatable; a model may end in `*` [default: *=1/0.1/4]
    #[arg(long = "price", value_name = "MODEL=INPUT/CACHED/OUTPUT", value_parser = Prices::parse)]
    prices: Vec<(String, Price)>,

    /// What goes wrong, repeatable; the first that fits a call counts
    #[arg(long = "fault", value_name = "FAULT")]
    faults: Vec<Trouble>,

    /// Leave the tokens of answers that broke off out of the bill
    #[arg(long)]
    broken_is_free: bool,

    #[command(flatten)]
    format: Format,
}

pub async fn run(args: Args) -> Outcome {
    let format = args.format;
    let options = options(args)?;
    let mut stop = Stop::listen()?;
    let addr = options.addr;
    let sim = longshore_simulate::start(options).await.map_err(|error| {
        Fault::new(format!("could not listen on {addr}"))
            .cause(&error)
            .hint("name a free port with --addr, or port 0")
    })?;
    greet(&sim, format)?;
    stop.asked().await;
    let bill = sim.bill();
    sim.stop().await;
    if format.json {
        output::json(&bill)?
    } else {
        summary(&bill)?
    }
    Ok(Exit::Done)
}

fn options(args: Args) -> Outcome<Options> {
    let trace = args.trace.as_deref().map(Trace::read).transpose();
    let trace = trace.map_err(|error| Fault::of(&error).exit(Exit::Usage))?;
    let usual = if trace.is_some() { Pace::Real } else { Pace::None };
    let pace = args.latency.unwrap_or(usual);
    Ok(Options {
        addr: args.addr,
        seed: args.seed,
        key: args.key,
        models: args.models,
        latency: Latency { pace, ttft_ms: args.ttft, token_ms: args.token_ms, speed: args.speed },
        limits: Limits { requests: args.rpm, tokens: args.tpm },
        prices: if args.prices.is_empty() { Prices::default() } else { Prices(args.prices) },
        trace,
        faults: args.faults,
        bill_broken: !args.broken_is_free,
    })
}

fn pace(text: &str) -> Result<Pace, String> {
    match (text, text.strip_prefix("fixed:").map(str::parse)) {
        ("none", _) => Ok(Pace::None),
        ("real", _) => Ok(Pace::Real),
        (_, Some(Ok(ms))) => Ok(Pace::Fixed { ms }),
        _ => Err("expected none, real, or fixed:MS such as fixed:250".into()),
    }
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "expected a number above 0".into())
}

fn token_ms(text: &str) -> Result<f64, String> {
    let ms = text.parse::<f64>().ok().filter(|ms| (0.0..=60_000.0).contains(ms));
    ms.ok_or_else(|| "expected milliseconds from 0 to 60000, such as 15 or 2.5".into())
}

fn greet(sim: &Sim, format: Format) -> Outcome<()> {
    let (openai, anthropic) = (sim.openai_base_url(), sim.anthropic_base_url());
    match format.json {
        true => output::json_line(
            &json!({"openai": openai, "anthropic": anthropic, "addr": sim.addr().to_string()}),
        ),
        false => output::line(&format!(
            "simulated LLM provider: OPENAI_BASE_URL={openai} ANTHROPIC_BASE_URL={anthropic} (any key)"
        )),
    }
}

/// The sums, and what came more than once.
fn summary(bill: &Bill) -> Outcome<()> {
    let totals = &bill.totals;
    output::line(&format!(
        "{} calls of {} different requests: {} answered, {} broken, {} refused, {} open",
        totals.received,
        bill.distinct,
        totals.answered,
        totals.broken,
        totals.refused,
        totals.open()
    ))?;
    output::line(&format!(
        "{} input tokens ({} cached), {} output tokens: ${}",
        totals.input_tokens, totals.cached_tokens, totals.output_tokens, totals.cost
    ))?;
    repeated(bill)
}

/// What came more than once, which is what a bill is looked at for.
fn repeated(bill: &Bill) -> Outcome<()> {
    const MOST: usize = 20;
    let mut lines: Vec<_> = bill.requests.iter().filter(|line| line.totals.received > 1).collect();
    lines.sort_by_key(|line| std::cmp::Reverse(line.totals.received));
    if lines.is_empty() {
        return Ok(());
    }
    output::line(&format!("\ncame more than once ({} of {}):", lines.len(), bill.distinct))?;
    let mut table = Table::new(&["RECEIVED", "ANSWERED", "BROKEN", "REFUSED", "MODEL", "REQUEST"]);
    for line in lines.iter().take(MOST) {
        let counts = [line.totals.received, line.totals.answered, line.totals.broken, line.totals.refused];
        let mut cells: Vec<String> = counts.iter().map(u64::to_string).collect();
        cells.extend([line.model.clone(), shorten(&line.label, 60)]);
        table.row(cells);
    }
    table.print()
}

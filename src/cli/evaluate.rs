//! `forgetd evaluate`: a suite of deletions, judged against retraining.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use clap::Args;

use crate::{
    app::{config::Config, stop_signal, telemetry},
    clock::Clock,
    domain::watch::{Progress, Watch},
    evaluation::{self, Options, Suite},
};

use super::{CliError, progress::Bars};

#[derive(Args, Debug)]
pub struct EvaluateArgs {
    /// A bundled suite, `quick`, `paper`, `curves` or `deep`, or the path of a TOML file.
    #[arg(long, default_value = "quick")]
    suite: String,
    /// Only these of the suite's data sets, by name; all when absent.
    #[arg(long = "dataset")]
    datasets: Vec<String>,
    /// Folder of the files that the suite reads.
    #[arg(long)]
    data: Option<PathBuf>,
    /// Folder for raw results and the report; a run goes on from what is there.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Models trained at a time; as many as there are processors when absent.
    #[arg(long)]
    threads: Option<usize>,
}

impl EvaluateArgs {
    pub async fn run(self, config: &Config) -> Result<(), CliError> {
        let telemetry = telemetry::install(&config.telemetry)?;
        let mut suite = Suite::load(&self.suite)?;
        let folder = PathBuf::from("forgetd-evaluation").join(&suite.name);
        if !self.datasets.is_empty() {
            suite = suite.restricted_to(&self.datasets)?;
        }
        let out = self.out.unwrap_or(folder);
        let threads = self.threads.or_else(|| thread::available_parallelism().ok().map(Into::into));
        let options = Options {
            data: self.data,
            out: out.clone(),
            threads: threads.unwrap_or(1),
            device: config.serving.device,
        };
        let follower = Arc::new(Follower { bars: Bars::new(), stopped: AtomicBool::new(false) });
        let (watch, stop) = (follower.clone(), stop_signal()?);
        let work = tokio::task::spawn_blocking(move || {
            let outcome = evaluation::run(&suite, &options, &Clock::system(), watch.as_ref());
            watch.bars.finish();
            outcome
        });
        let stopping = tokio::spawn(async move {
            stop.await;
            follower.stopped.store(true, Ordering::Relaxed);
        });
        let outcome = work.await.map_err(std::io::Error::other)?;
        stopping.abort();
        telemetry.shutdown();
        let summary = outcome?;
        println!(
            "{} tables; the report is {}",
            summary.tables.len(),
            out.join("report.html").display()
        );
        Ok(())
    }
}

struct Follower {
    bars: Bars,
    stopped: AtomicBool,
}

impl Watch for Follower {
    fn progressed(&self, progress: &Progress) {
        self.bars.show("evaluation", progress);
    }

    fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

//! Progress for people on a terminal, log lines elsewhere.

use std::{
    io::IsTerminal,
    sync::{Mutex, PoisonError},
};

use indicatif::{ProgressBar, ProgressStyle};
use tracing::info;

use crate::domain::watch::Progress;

/// A bar per stage of long work.
pub(super) struct Bars {
    shown: Mutex<Shown>,
    on_terminal: bool,
}

#[derive(Default)]
struct Shown {
    stage: String,
    /// Tenths of the stage that were logged.
    tenths: u64,
    bar: Option<ProgressBar>,
}

impl Bars {
    pub(super) fn new() -> Self {
        Self { shown: Mutex::new(Shown::default()), on_terminal: std::io::stderr().is_terminal() }
    }

    pub(super) fn show(&self, kind: &str, progress: &Progress) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.stage != progress.stage {
            if let Some(bar) = shown.bar.take() {
                bar.finish();
            }
            shown.stage.clone_from(&progress.stage);
            shown.tenths = 0;
        }
        if self.on_terminal {
            let bar = shown.bar.get_or_insert_with(|| stage_bar(progress));
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            return;
        }
        let tenths = progress.done * 10 / progress.total.max(1);
        if tenths > shown.tenths {
            shown.tenths = tenths;
            info!(kind, stage = progress.stage, percent = tenths * 10, "working");
        }
    }

    pub(super) fn finish(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = shown.bar.take() {
            bar.finish();
        }
    }
}

fn stage_bar(progress: &Progress) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg:>16} [{bar:40}] {percent:>3} %  {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(progress.total)
        .with_style(style.progress_chars("=> "))
        .with_message(progress.stage.clone())
}

/// Counts without knowing the end.
pub(super) struct Spinner {
    bar: ProgressBar,
}

impl Spinner {
    pub(super) fn new(what: &str) -> Self {
        let style = ProgressStyle::with_template("{spinner} {human_pos} {msg}, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
        Self { bar }
    }

    pub(super) fn add(&self, count: u64) {
        self.bar.inc(count);
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

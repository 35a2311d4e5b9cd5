//! A network that computes for as long as a test wants.

use std::{
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use super::HELP_AFTER;
use crate::serving::version::Predict;

/// Tells that it has begun, then waits to be let go; gives the rows as they came.
pub struct Gate(Sender<()>, Mutex<Receiver<()>>);

impl Predict for Gate {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        self.0.send(()).unwrap();
        self.1.lock().unwrap().recv().unwrap();
        rows
    }

    fn duration(&self, _: usize) -> Duration {
        HELP_AFTER
    }
}

/// With what hears that it has begun, and what lets it go.
pub fn gate() -> (Arc<Gate>, Receiver<()>, Sender<()>) {
    let (begun, has_begun) = channel();
    let (go, let_go) = channel();
    (Arc::new(Gate(begun, Mutex::new(let_go))), has_begun, go)
}

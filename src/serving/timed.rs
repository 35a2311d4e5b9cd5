//! A network that is ready to answer and knows how long it takes.

use std::time::{Duration, Instant};

use crate::{
    nn::{network::Network, prediction},
    serving::version::Predict,
};

/// Rows that are timed together, as those that wait are computed together.
const ROWS: usize = 8;

/// A row that takes this long alone is timed once.
const LONG: Duration = Duration::from_millis(1);

pub struct Timed {
    network: Network,
    value_duration_s: f64,
}

impl Timed {
    /// Lays the network out for few rows and runs it, which makes the next run as fast as any later
    /// one; the fastest of a few runs counts, since whatever else the machine does makes it slower
    /// only.
    pub fn new(network: Network) -> Self {
        let network = network.for_few_rows();
        let width: usize = network.spec().input.iter().product();
        let run = |rows: usize| {
            let (values, start) = (vec![0.0; rows * width], Instant::now());
            prediction::log_probabilities_of(&network, values);
            start.elapsed()
        };
        let alone = run(1);
        let (duration, rows) = if alone > LONG {
            (alone, 1)
        } else {
            ([(); 3].map(|()| run(ROWS)).into_iter().min().unwrap_or(alone), ROWS)
        };
        let value_duration_s = duration.as_secs_f64() / (rows * width) as f64;
        Self { network, value_duration_s }
    }

    pub fn classes(&self) -> usize {
        self.network.classes()
    }
}

impl Predict for Timed {
    fn probabilities(&self, rows: Vec<f32>) -> Vec<f32> {
        let mut probabilities = prediction::log_probabilities_of(&self.network, rows);
        for value in &mut probabilities {
            *value = value.exp();
        }
        probabilities
    }

    fn duration(&self, values: usize) -> Duration {
        Duration::from_secs_f64(self.value_duration_s * values as f64)
    }
}

//! Samples encoded for a network, in memory: what `dataset` makes and `nn` reads.

/// Encoded samples, one row each.
#[derive(Clone, Debug, Default)]
pub struct Examples {
    /// Shape of one row: `[features]` or `[channels, height, width]`.
    pub shape: Vec<usize>,
    pub values: Values,
    /// Index of each row's class.
    pub labels: Vec<u32>,
    /// Each row's place in the order of ingestion: what shuffling and folding derive from, so
    /// that taking a row out leaves the order of the others as it was.
    pub ordinals: Vec<i64>,
}

/// The rows' numbers, `[rows, width]` flattened.
#[derive(Clone, Debug)]
pub enum Values {
    /// What the network sees is `byte / scale`; a quarter of the memory of floats.
    Bytes {
        bytes: Vec<u8>,
        scale: f32,
    },
    Floats(Vec<f32>),
}

impl Default for Values {
    fn default() -> Self {
        Self::Floats(Vec::new())
    }
}

impl Examples {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Numbers in one row.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// The chosen rows' numbers, `[rows.len(), width]` flattened.
    ///
    /// # Panics
    /// When a row does not exist.
    pub fn gather(&self, rows: &[usize]) -> Vec<f32> {
        let width = self.width();
        let mut gathered = Vec::with_capacity(rows.len() * width);
        for row in rows {
            let range = row * width..(row + 1) * width;
            match &self.values {
                Values::Bytes { bytes, scale } => {
                    gathered.extend(bytes[range].iter().map(|byte| f32::from(*byte) / scale));
                }
                Values::Floats(floats) => gathered.extend_from_slice(&floats[range]),
            }
        }
        gathered
    }

    /// The chosen rows as examples of their own.
    ///
    /// # Panics
    /// When a row does not exist.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Self {
        let width = self.width();
        let values = match &self.values {
            Values::Bytes { bytes, scale } => {
                Values::Bytes { bytes: selected(bytes, width, rows), scale: *scale }
            }
            Values::Floats(floats) => Values::Floats(selected(floats, width, rows)),
        };
        Self {
            shape: self.shape.clone(),
            values,
            labels: rows.iter().map(|row| self.labels[*row]).collect(),
            ordinals: rows.iter().map(|row| self.ordinals[*row]).collect(),
        }
    }
}

fn selected<T: Clone>(values: &[T], width: usize, rows: &[usize]) -> Vec<T> {
    let mut selected = Vec::with_capacity(rows.len() * width);
    for row in rows {
        selected.extend_from_slice(&values[row * width..(row + 1) * width]);
    }
    selected
}

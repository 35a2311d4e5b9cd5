//! How many bars each method meets in each table, and where it ranks there.

use crate::evaluation::{
    judgement::{bars, mean_ranks},
    summary::{Summary, Table},
};

/// The bars in words.
pub const MEANING: &str = "Bars met of those that apply, and the mean rank among the table's \
    methods over the same figures (1 is the nearest). The bars: accF and accT within a point of \
    the floor or within the floor's own interval where that is wider, AUC within 0.02, LiRA TPR \
    within a point, klF at most 1.25 and klT at most 1.1 times the floor's.";

/// Of one method in one table.
pub enum Standing {
    /// It is not in the table.
    Absent,
    Failed,
    Ranked {
        met: usize,
        bars: usize,
        rank: f64,
    },
}

/// Every method's label, in the order of the first appearance.
pub fn labels(summary: &Summary) -> Vec<&str> {
    let mut labels: Vec<&str> = Vec::new();
    for row in summary.tables.iter().flat_map(|table| &table.methods) {
        if !labels.contains(&row.label.as_str()) {
            labels.push(&row.label);
        }
    }
    labels
}

/// For each label.
pub fn standings(table: &Table, labels: &[&str]) -> Vec<Standing> {
    let ranks = mean_ranks(table);
    let standing = |label: &&str| {
        let place = table.methods.iter().position(|row| row.label == **label);
        match place.map(|place| (bars(&table.methods[place], &table.floor), ranks[place])) {
            None => Standing::Absent,
            Some((_, None)) => Standing::Failed,
            Some((bars, Some(rank))) => {
                let met = bars.iter().filter(|bar| bar.is_met).count();
                Standing::Ranked { met, bars: bars.len(), rank }
            }
        }
    };
    labels.iter().map(standing).collect()
}

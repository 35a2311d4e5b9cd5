//! `forgetd evaluate` from the outside: stopped halfway, taken up again, and read.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Small enough for seconds, with every kind of deletion.
const SUITE: &str = r#"
name = "tiny"
about = "A few digits, for <tests> & nothing else."
seeds = [1, 2]
retrainings = 2
reference_models = 4
retained_measured_max = 50

[[dataset]]
name = "digits"
bundled = "digits"
train_rows = 200
holdout_rows = 40
test_rows = 100

[[network]]
name = "mlp"
architecture = { preset = "mlp", hidden = [16] }
recipe = { epochs = 10, folds = 2 }

[[network]]
name = "logistic"
architecture = { preset = "logistic" }
recipe = { epochs = 5, folds = 2 }

[[network]]
name = "perturbed"
architecture = { preset = "logistic" }
recipe = { epochs = 5, folds = 2 }
perturbation = { l2 = 1.0, sigma = 1.0 }

[[deletion]]
name = "5 at random"
draw = "random"
rows = 5

[[deletion]]
name = "half a class"
draw = "class"
share = 0.5

[[deletion]]
name = "worst"
draw = "highest-loss"
rows = 5

[[deletion]]
name = "wrong"
draw = "mislabelled"
rows = 10

[[deletion]]
name = "each alone"
draw = "random"
rows = 4
requests = 4
alone = true

[[deletion]]
name = "stream"
draw = "random"
rows = 6
requests = 3

[[method]]
name = "nothing"

[[method]]
name = "iau"

[[method]]
name = "iau-reference"
label = "too far"
parameters = { learning_rate = 1.0 }

[[method]]
name = "certified"

[[experiment]]
datasets = ["digits"]
networks = ["mlp"]
deletions = ["5 at random", "half a class", "worst", "wrong", "each alone", "stream"]
methods = ["nothing", "iau"]

[[experiment]]
datasets = ["digits"]
networks = ["logistic"]
deletions = ["5 at random"]
methods = ["nothing", "iau", "too far"]

[[experiment]]
datasets = ["digits"]
networks = ["perturbed"]
deletions = ["5 at random"]
methods = ["nothing", "certified"]

[[timing]]
datasets = ["digits"]
networks = ["mlp"]
deletions = ["5 at random", "each alone"]
methods = ["iau"]
train_rows = [100, 200]
repeats = 1
"#;

struct Evaluation {
    folder: tempfile::TempDir,
}

impl Evaluation {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tiny.toml"), SUITE).unwrap();
        Self { folder }
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn command(&self, suite: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forgetd"));
        command
            .current_dir(self.folder.path())
            .args(["evaluate", "--threads", "2", "--suite", suite, "--out"])
            .arg(self.out());
        command
    }

    fn files(&self, kind: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.out().join(kind)).into_iter().flatten();
        entries
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "json" || e == "safetensors"))
            .collect()
    }

    fn results(&self) -> Value {
        serde_json::from_slice(&fs::read(self.out().join("results.json")).unwrap()).unwrap()
    }
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    format!("{}{}", String::from_utf8_lossy(out), String::from_utf8_lossy(err))
}

/// Waits until the folder has as many files, or the process has ended.
fn wait_for(child: &mut Child, fits: impl Fn() -> bool) {
    let started = Instant::now();
    while !fits() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < Duration::from_mins(2), "not within two minutes");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn modified(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn a_suite_is_stopped_taken_up_again_and_reported() {
    let evaluation = Evaluation::new();
    let mut child = evaluation
        .command("tiny.toml")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&mut child, || evaluation.files("cells").len() >= 2);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let stopped = child.wait_with_output().unwrap();
    assert!(!stopped.status.success(), "ended before it could be stopped");
    assert!(text(&stopped).contains("the same command goes on from here"), "{}", text(&stopped));
    let (cells, models) = (evaluation.files("cells"), evaluation.files("models"));
    assert!(cells.len() < 21, "{} cells when stopped", cells.len());
    assert!(evaluation.results()["tables"].as_array().is_some(), "a report of what there is");
    let report = || fs::read_to_string(evaluation.out().join("report.md")).unwrap();
    assert!(report().contains("Unfinished"), "{}", report());
    let made: Vec<_> = cells.iter().chain(&models).map(|path| modified(path)).collect();

    let done = evaluation.command("tiny.toml").output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("report.html"), "{}", text(&done));
    let again: Vec<_> = cells.iter().chain(&models).map(|path| modified(path)).collect();
    assert_eq!(again, made, "what was there is not made again");
    // Eight tables of two seeds: the floor and two methods each, and one more on the seventh.
    assert_eq!(evaluation.files("cells").len(), 8 * 2 * 3 + 2);

    check_results(&evaluation.results());
    check_report(&fs::read_to_string(evaluation.out().join("report.html")).unwrap());
    let markdown = report();
    assert!(markdown.contains("| **retrain (floor)** |"), "{markdown}");
    assert!(markdown.contains("2 runs") && !markdown.contains("Unfinished"), "{markdown}");
}

fn check_results(results: &Value) {
    let tables = results["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 8);
    let table = |name: &str| {
        let of_name = |table: &&Value| table["deletion"] == name;
        tables.iter().find(of_name).unwrap_or_else(|| panic!("no table {name:?}"))
    };
    let figure = |row: &Value, name: &str| row["figures"][name]["mean"].as_f64();
    for table in tables {
        assert_eq!(table["seeds"], serde_json::json!([1, 2]));
        for row in table["methods"].as_array().unwrap().iter().chain([&table["floor"]]) {
            if row["label"] == "too far" {
                continue;
            }
            for name in ["accuracy_test", "divergence_forgotten", "attack_auc", "attack_tpr"] {
                assert!(figure(row, name).is_some(), "{name} of {row:#}");
            }
            assert_eq!(row["figures"]["attack_auc"]["values"].as_array().unwrap().len(), 2);
        }
    }
    let random = table("5 at random");
    assert!(figure(&random["floor"], "lira_tpr").is_some());
    assert!(figure(&random["floor"], "parameter_distance").is_none());
    assert_eq!(random["deleted"], 5);
    let wrong = table("wrong");
    assert!(figure(&wrong["floor"], "wrong_label_test").is_some());
    assert!(figure(&wrong["floor"], "lira_tpr").is_none());
    let alone = table("each alone");
    assert_eq!((alone["alone"].as_bool(), alone["deleted"].as_u64()), (Some(true), Some(4)));
    assert!(alone["floor"]["drift"].as_array().unwrap().is_empty());
    assert_eq!(table("stream")["floor"]["drift"].as_array().unwrap().len(), 3);
    assert_eq!(table("stream")["methods"][1]["drift"][2]["deleted"], 6);
    let logistic = tables.iter().find(|table| table["network"] == "logistic").unwrap();
    assert!(figure(&logistic["floor"], "parameter_distance").unwrap() > 0.0);
    let perturbed = tables.iter().find(|table| table["network"] == "perturbed").unwrap();
    assert_eq!(perturbed["methods"][1]["label"], "certified");

    let timings = results["timings"].as_array().unwrap();
    assert_eq!(timings.len(), 4);
    for timing in timings {
        assert!(timing["retraining"]["seconds"].as_f64().unwrap() > 0.0);
        assert!(timing["methods"][0]["seconds"].as_f64().unwrap() > 0.0);
        let of_one = timing["deletion"] == "each alone";
        assert_eq!(timing["deleted"], if of_one { 1 } else { 5 });
    }
}

fn check_report(page: &str) {
    assert!(page.contains("A few digits, for &lt;tests&gt; &amp; nothing else."));
    // A scatter and two curves (one where labels were changed), four drift curves for the
    // stream, and two figures of time.
    assert_eq!(page.matches("<svg").count(), 6 * 3 + 2 + 5 + 2);
    for words in ["How close to retraining", "requests served", "false-positive rate", "Time"] {
        assert!(page.contains(words), "no {words:?}");
    }
    for outside in ["http://", "https://", "<script", "src="] {
        let found = page.replace("http://www.w3.org/2000/svg", "").contains(outside);
        assert!(!found, "the page is not self-contained: {outside}");
    }
}

#[test]
fn suites_that_cannot_be_run_are_refused_before_anything_is_trained() {
    let evaluation = Evaluation::new();
    let broken = SUITE.replace("deletions = [\"5 at random\"]", "deletions = [\"all\"]");
    fs::write(evaluation.folder.path().join("broken.toml"), broken).unwrap();
    for (suite, word) in [("broken.toml", "\"all\""), ("slow", "quick, paper"), ("paper", "--data")]
    {
        let refused = evaluation.command(suite).output().unwrap();
        assert!(!refused.status.success());
        assert!(text(&refused).contains(word), "{}", text(&refused));
        assert!(evaluation.files("models").is_empty());
    }
}

/// On the public files, which are not in the repository.
#[test]
#[ignore = "reads MNIST, Adult and CIFAR-10 from FORGETD_TEST_DATA"]
fn the_files_of_the_paper_suite_are_read() {
    let Some(data) = std::env::var_os("FORGETD_TEST_DATA") else {
        panic!("set FORGETD_TEST_DATA to the folder of the data sets");
    };
    let paper = fs::read_to_string("evaluation/suites/paper.toml").unwrap();
    let declared = &paper[paper.find("[[dataset]]").unwrap()..paper.find("[[network]]").unwrap()];
    let mut datasets = String::new();
    for line in declared.lines() {
        datasets += match line.split(' ').next() {
            Some("train_rows") => "train_rows = 200",
            Some("holdout_rows") => "holdout_rows = 50",
            Some("test_rows") => "test_rows = 100",
            _ => line,
        };
        datasets.push('\n');
    }
    let first = SUITE.find("[[dataset]]").unwrap();
    let (head, rest) = SUITE.split_at(first);
    let suite = head.to_owned()
        + &datasets
        + &rest[rest.find("[[network]]").unwrap()..rest.find("[[experiment]]").unwrap()]
        + r#"
[[experiment]]
datasets = ["mnist", "adult", "cifar10"]
networks = ["mlp"]
deletions = ["5 at random"]
methods = ["iau"]
"#;
    let evaluation = Evaluation::new();
    fs::write(evaluation.folder.path().join("files.toml"), suite).unwrap();
    let done = evaluation.command("files.toml").arg("--data").arg(data).output().unwrap();
    assert!(done.status.success(), "{}", text(&done));
    assert_eq!(evaluation.results()["tables"].as_array().unwrap().len(), 3);
}

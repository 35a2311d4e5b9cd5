//! A `forgetd` process of a test's own.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio},
    sync::Arc,
};

use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tempfile::TempDir;

use super::{Database, PATIENCE, eventually, field};
use crate::postgres;

/// A data folder and a database; the process in front of them may be killed and started again.
pub struct Service {
    pub client: Client,
    pub address: String,
    folder: Arc<TempDir>,
    environment: Vec<(String, String)>,
    arguments: Vec<String>,
    child: Child,
}

/// What a request came back with.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Service {
    pub async fn start(database: Database) -> Self {
        Self::start_with(database, &[], &[]).await
    }

    /// With more `FORGETD_*` variables and arguments of `serve`.
    pub async fn start_with(
        database: Database,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let mut environment: Vec<(String, String)> =
            environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        if database == Database::Postgres {
            let url = postgres::fresh_database().await;
            environment.push(("FORGETD_LEDGER__DATABASE_URL".into(), url));
        }
        Self::spawn(folder, environment, arguments).await
    }

    /// Another process over the same data folder and database.
    pub async fn beside(&self, arguments: &[&str]) -> Self {
        Self::spawn(self.folder.clone(), self.environment.clone(), arguments).await
    }

    async fn spawn(
        folder: Arc<TempDir>,
        environment: Vec<(String, String)>,
        arguments: &[&str],
    ) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect::<Vec<_>>();
        let (child, address) = spawn(folder.path(), &environment, &arguments);
        // A client takes TLS from the process; it has it already if this is not the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(PATIENCE).build().unwrap();
        let service = Self { client, address, folder, environment, arguments, child };
        if service.address.starts_with("http:") {
            service.live().await;
        }
        service
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where its `PostgreSQL` is; `None` on `SQLite`.
    pub fn postgres_url(&self) -> Option<&str> {
        let is_url = |(name, _): &&(String, String)| name == "FORGETD_LEDGER__DATABASE_URL";
        self.environment.iter().find(is_url).map(|(_, url)| url.as_str())
    }

    /// `forgetd` with this service's data folder and database, for a subcommand.
    pub fn command(&self) -> Command {
        command(self.folder.path(), &self.environment)
    }

    /// Where its ledger lies.
    pub fn database_url(&self) -> String {
        let file = self.folder().join("data/forgetd.sqlite");
        self.postgres_url().map_or_else(|| format!("sqlite://{}", file.display()), str::to_owned)
    }

    /// SIGKILL: the process gets no chance to tidy up.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Another `FORGETD_*` variable, from the next start on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the killed or ended process again.
    pub async fn restart(&mut self) {
        (self.child, self.address) = spawn(self.folder.path(), &self.environment, &self.arguments);
        self.live().await;
    }

    /// Holds the process at a named step, from now on; see `src/fail_point.rs`.
    pub fn hold_at(&self, step: &str) {
        std::fs::write(self.folder.path().join(FAIL_POINTS).join(step), "").unwrap();
    }

    /// Waits until the process is held at the step.
    pub async fn reaches(&self, step: &str) {
        let reached = self.folder.path().join(FAIL_POINTS).join(format!("{step}.reached"));
        eventually(step, async || reached.exists(), |reached| *reached).await;
    }

    /// Whoever is held at the step goes on, if it still lives, and nobody is held there any more.
    pub fn let_pass(&self, step: &str) {
        let points = self.folder.path().join(FAIL_POINTS);
        std::fs::remove_file(points.join(step)).unwrap();
        std::fs::remove_file(points.join(format!("{step}.reached"))).unwrap();
    }

    /// Kills the process at each of the steps in turn and starts it again; `cause` makes it come by, and
    /// is told the step's number.
    pub async fn kill_at_each(&mut self, steps: &[&str], mut cause: impl AsyncFnMut(&Self, usize)) {
        for (number, step) in steps.iter().enumerate() {
            self.hold_at(step);
            if number > 0 {
                self.restart().await;
            }
            cause(self, number).await;
            self.reaches(step).await;
            self.kill();
            self.let_pass(step);
        }
        self.restart().await;
    }

    /// SIGTERM: the process is asked to end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    /// Name and niceness of every thread.
    pub fn threads(&self) -> Vec<(String, i32)> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        // A thread may end meanwhile.
        let stats = tasks
            .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
        stats.map(|stat| thread(&stat)).collect()
    }

    pub fn keeps_memory_out_of_core_files(&self) -> bool {
        let filter = format!("/proc/{}/coredump_filter", self.child.id());
        std::fs::read_to_string(filter).unwrap().trim().trim_start_matches('0').is_empty()
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the process ends", async || child.try_wait().unwrap(), Option::is_some)
            .await
            .unwrap()
    }

    async fn live(&self) {
        eventually(
            "the service lives",
            async || {
                let url = format!("{}/v2/health/live", self.address);
                self.client.get(url).send().await.map(|answer| answer.status()).ok()
            },
            |status| *status == Some(StatusCode::OK),
        )
        .await;
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    /// The body as text, of an answer that must be a success.
    pub async fn text(&self, path: &str, accept: &str) -> String {
        let answer = self.request(Method::GET, path).header("accept", accept).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    /// The items of every page of a list.
    pub async fn pages(&self, path: &str) -> Vec<Value> {
        let (mut items, mut query) = (Vec::new(), "?limit=200".to_owned());
        loop {
            let page = self.get(&format!("{path}{query}")).await.body;
            items.extend(field(&page, "/items").as_array().unwrap().iter().cloned());
            query = match page.get("next_cursor") {
                Some(Value::String(cursor)) => format!("?limit=200&cursor={cursor}"),
                Some(cursor) => format!("?limit=200&cursor={cursor}"),
                None => return items,
            };
        }
    }

    /// What the process has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Waits until the deletion request has this state.
    pub async fn request_becomes(&self, id: &str, state: &str) -> Value {
        let path = format!("/v1/deletion-requests/{id}");
        eventually(
            &format!("request {id} becomes {state}"),
            async || self.get(&path).await.body,
            |body| field(body, "/state") == state,
        )
        .await
    }
}

/// Runs a subcommand to its end. It has named nobody in what it prints and logs, either.
pub fn output_of(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    for said in [&output.stdout, &output.stderr] {
        let said = String::from_utf8_lossy(said);
        assert_eq!(said.lines().find(|line| names_somebody(line)), None, "{command:?}");
    }
    output
}

/// Sends a request; the body is JSON or null.
pub async fn answer(request: RequestBuilder) -> Answer {
    let answer = request.send().await.expect("the service answers");
    let (status, headers) = (answer.status(), answer.headers().clone());
    let text = answer.text().await.expect("the service answers whole");
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    Answer { status, headers, body }
}

/// Where the steps stand at which the processes of a folder are held.
const FAIL_POINTS: &str = "fail-points";

/// Where the processes of a folder put what they do not keep.
const TEMPORARY: &str = "tmp";

fn command(folder: &Path, environment: &[(String, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forgetd"));
    command
        .args(["--data-dir".as_ref(), folder.join("data").as_os_str()])
        .env("FORGETD_TELEMETRY__LOG", "warn,forgetd=trace")
        .env("FORGETD_FAIL_POINTS", folder.join(FAIL_POINTS))
        .env("TMPDIR", folder.join(TEMPORARY))
        .envs(environment.iter().map(|(key, value)| (key, value)));
    command
}

fn spawn(folder: &Path, environment: &[(String, String)], arguments: &[String]) -> (Child, String) {
    for part in [FAIL_POINTS, TEMPORARY] {
        std::fs::create_dir_all(folder.join(part)).unwrap();
    }
    let log =
        std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
    let mut child = command(folder, environment)
        .args(["serve", "--listen", "127.0.0.1:0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let address = announced(child.stdout.take().unwrap()).unwrap_or_else(|| {
        let log = std::fs::read_to_string(folder.join("log")).unwrap();
        panic!("the service did not start:\n{log}")
    });
    (child, address)
}

/// What a service says that ends at once, by itself, because of its address or of these variables.
pub fn does_not_start(listen: &str, environment: &[(&str, &str)]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_forgetd"));
    command.args(["serve", "--listen", listen, "--data-dir"]).arg(folder.path());
    let ended = output_of(command.envs(environment.iter().copied()).stdin(Stdio::null()));
    assert!(!ended.status.success());
    String::from_utf8(ended.stderr).unwrap()
}

/// The address that the service prints once it listens.
fn announced(stdout: ChildStdout) -> Option<String> {
    let line = BufReader::new(stdout).lines().next()?.ok()?;
    let (_, address) = line.split_once("listening on ")?;
    Some(address.trim().to_owned())
}

impl Drop for Service {
    /// No test's service has named a person or a sample in its log, nor kept a name in its files.
    fn drop(&mut self) {
        // A child that has ended already is fine.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            assert_eq!(self.log().lines().find(|line| names_somebody(line)), None);
            for file in files_below(&self.folder.path().join("data")) {
                let text = std::fs::read(&file).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                assert!(!names_somebody(&text), "{} names somebody", file.display());
            }
        } else if let Ok(log) = std::fs::read_to_string(self.folder.path().join("log")) {
            let tail: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!("the service's last log lines:");
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Every file in a folder and in those below it.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let (folders, files): (Vec<_>, Vec<_>) =
        entries.map(|entry| entry.path()).partition(|path| path.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|folder| files_below(folder))).collect()
}

/// Whether a text has the name of one of the tests' people or samples in it.
pub fn names_somebody(text: &str) -> bool {
    // The samples are no `sample-1`: in a ledger's file that word stands before pseudonyms, whose first
    // bytes may happen to be a dash and a digit.
    text.contains("person-") || text.contains("visit-")
}

/// Of the line that Linux says of a thread; see proc(5).
fn thread(stat: &str) -> (String, i32) {
    let (head, rest) = stat.rsplit_once(')').unwrap();
    let (_, name) = head.split_once('(').unwrap();
    (name.to_owned(), rest.split_whitespace().nth(16).unwrap().parse().unwrap())
}

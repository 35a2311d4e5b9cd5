//! A throw-away `PostgreSQL` server for this test process, and databases on it.

use std::{
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const REMEDY: &str = "these tests need PostgreSQL's server programs (initdb, pg_ctl): \
     install them, on Debian with `apt-get install postgresql`";

/// A server of its own for a test that stops it; the others share one.
pub struct Server {
    folder: PathBuf,
    programs: PathBuf,
    /// Stops the server and removes its folder once this process is gone, however it went: its
    /// standard input is a pipe that closes then.
    _watchdog: Child,
}

static SERVER: OnceLock<Server> = OnceLock::new();

/// The server's log; its lines begin with the database and a bar.
pub fn log() -> String {
    let server = SERVER.get().expect("a database was made before");
    String::from_utf8_lossy(&std::fs::read(server.folder.join("log")).unwrap()).into_owned()
}

/// Where the server keeps its files.
pub fn data_folder() -> PathBuf {
    SERVER.get().expect("a database was made before").folder.join("data")
}

/// Where a database's files lie, once all that was in the server's memory is in them.
pub async fn written_folder(url: &str) -> PathBuf {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection.execute("CHECKPOINT").await.unwrap();
    let sql = "SELECT oid::bigint FROM pg_database WHERE datname = current_database()";
    let own: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    data_folder().join(format!("base/{own}"))
}

/// URL of a new, empty database; it goes with the server when the test process ends.
pub async fn fresh_database() -> String {
    database_from("template1").await
}

/// URL of another database with all that is in this one, which nobody may be connected to.
pub async fn copy_of(url: &str) -> String {
    let (_, name) = url.split_once("localhost/").unwrap();
    database_from(name.split('?').next().unwrap()).await
}

async fn database_from(template: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(Server::start)).await.unwrap();
    let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
    let create = format!("CREATE DATABASE {name} TEMPLATE {template}");
    connection.execute(AssertSqlSafe(create)).await.unwrap();
    connection.close().await.unwrap();
    server.url(&name)
}

impl Server {
    pub fn start() -> Self {
        let programs = find_programs();
        let folder = tempfile::Builder::new().prefix("forgetd-pg-").tempdir().unwrap().keep();
        if is_root() {
            run(Command::new("chown").arg("postgres").arg(&folder));
        }
        let data = folder.join("data");
        run(program(&programs, "initdb").arg("-D").arg(&data).args([
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
        ]));
        let stop = "read -r _; \
             \"$@\" stop -m immediate >/dev/null 2>&1; rm -rf -- \"$FOLDER\"";
        let pg_ctl = program(&programs, "pg_ctl");
        let watchdog = Command::new("sh")
            .args(["-c", stop, "watchdog"])
            .arg(pg_ctl.get_program())
            .args(pg_ctl.get_args())
            .arg("-D")
            .arg(&data)
            .env("FOLDER", &folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let server = Self { folder, programs, _watchdog: watchdog };
        server.resume();
        server
    }

    /// It goes down as in a crash, and with it every connection.
    pub fn stop(&self) {
        run(self.control().args(["-m", "immediate", "stop"]));
    }

    pub fn resume(&self) {
        let options = format!(
            "-k {} -c listen_addresses= -c fsync=off -c max_connections=300 \
             -c log_line_prefix='%d|' \
             -c unix_socket_permissions=0777",
            self.folder.display()
        );
        let log = self.folder.join("log");
        run(self.control().arg("-l").arg(log).args(["-w", "-o", &options, "start"]));
    }

    fn control(&self) -> Command {
        let mut control = program(&self.programs, "pg_ctl");
        control.arg("-D").arg(self.folder.join("data")).stdout(Stdio::null());
        control
    }

    /// Every server has a database named `postgres`.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}", self.folder.display())
    }
}

/// The server refuses to run as root.
fn program(programs: &Path, name: &str) -> Command {
    let path = programs.join(name);
    if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--"]).arg(path);
        command
    } else {
        Command::new(path)
    }
}

fn find_programs() -> PathBuf {
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&on_path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    folders.extend(versions.map(|version| version.path().join("bin")));
    let has_all = |folder: &PathBuf| ["initdb", "pg_ctl"].iter().all(|it| folder.join(it).exists());
    let found = folders.into_iter().find(has_all).unwrap_or_else(|| panic!("{REMEDY}"));
    // Through links: initdb looks for its siblings where it really lies.
    let initdb = found.join("initdb").canonicalize().unwrap();
    initdb.parent().map(Path::to_owned).unwrap()
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().unwrap();
    id.stdout == b"0\n"
}

fn run(command: &mut Command) {
    let output = command.current_dir("/").stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {text}\n{REMEDY}");
}

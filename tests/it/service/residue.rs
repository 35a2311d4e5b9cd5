//! Nothing left behind: no file of the service or of its database holds what a forgotten person
//! was, in whatever form; not even sealed, where the database lets go of its pages.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use forgetd::domain::alias::AliasKind;
use memchr::memmem;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use super::{
    Database, Service,
    people::{self, MODEL},
    process::{answer, files_below},
};
use crate::postgres;

const TENSORS: &str = "tensors";
const WIDTH: usize = 16;

const COLUMNS: &str = "subject,sample,mail,age,hours,work,label\n";

/// What one person gives, no byte of which anybody else has.
struct Person {
    subject: String,
    /// Of the table, of the tensors, of the pixels.
    samples: [String; 3],
    age: f64,
    hours: f64,
    floats: Vec<f32>,
    pixels: Vec<u8>,
    /// A label and a category that are the person's own.
    label: String,
    work: String,
}

/// Bytes to look for, and what they are.
type Patterns = Vec<(String, Vec<u8>)>;

impl Person {
    fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut own = |kind: &str| {
            let letters: String =
                (0..24).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
            format!("{kind}-{letters}")
        };
        let (subject, label, work) = (own("subject"), own("label"), own("work"));
        let samples = [own("row"), own("tensor"), own("picture")];
        Self {
            subject,
            samples,
            label,
            work,
            age: rng.random_range(20.0..70.0),
            hours: rng.random_range(0.0..60.0),
            floats: (0..WIDTH).map(|_| rng.random_range(0.0..1.0)).collect(),
            pixels: (0..WIDTH).map(|_| rng.random()).collect(),
        }
    }

    /// Of a CSV file with `COLUMNS`.
    fn row(&self) -> String {
        let Self { subject, samples, age, hours, work, label, .. } = self;
        format!("{subject},{},{},{age},{hours},{work},{label}\n", samples[0], self.email())
    }

    fn tensors(&self) -> [Value; 2] {
        [self.tensor(1, &json!(self.floats)), self.tensor(2, &json!(self.pixels))]
    }

    fn tensor(&self, number: usize, features: &Value) -> Value {
        json!({
            "subject_id": self.subject, "sample_id": self.samples[number],
            "label": "low", "features": features, "aliases": {"email": self.email()},
        })
    }

    fn email(&self) -> String {
        format!("{}@example.org", self.subject)
    }

    fn patterns(&self) -> Patterns {
        let mut found = Vec::new();
        let alias = AliasKind::Email.digest(&self.email()).unwrap();
        encodings("the plain hash of the alias", alias.as_bytes(), &mut found);
        for word in self.samples.iter().chain([&self.subject, &self.label, &self.work]) {
            encodings(word, word.as_bytes(), &mut found);
        }
        for number in [self.age, self.hours] {
            encodings("a number as text", number.to_string().as_bytes(), &mut found);
            encodings("a number as f64", &number.to_le_bytes(), &mut found);
        }
        // One float of 32 bits alone is found by chance.
        encodings("two numbers as f32", &singles([self.age, self.hours]), &mut found);
        let floats = || self.floats.iter().copied().map(f64::from);
        let doubles: Vec<u8> = floats().flat_map(f64::to_le_bytes).collect();
        encodings("floats", &singles(floats()), &mut found);
        encodings("two floats of many", &singles(floats().skip(1).take(2)), &mut found);
        encodings("floats as f64", &doubles, &mut found);
        encodings("floats as text", json!(self.floats).to_string().as_bytes(), &mut found);
        encodings("pixels", &self.pixels, &mut found);
        let pixels = || self.pixels.iter().copied().map(f64::from);
        encodings("pixels as f32", &singles(pixels()), &mut found);
        encodings("pixels from 0 to 1", &singles(pixels().map(|it| it / 255.0)), &mut found);
        encodings("pixels as text", json!(self.pixels).to_string().as_bytes(), &mut found);
        found
    }
}

#[expect(clippy::cast_possible_truncation, reason = "as a network reads them")]
fn singles(numbers: impl IntoIterator<Item = f64>) -> Vec<u8> {
    numbers.into_iter().flat_map(|it| (it as f32).to_le_bytes()).collect()
}

/// Raw, hexadecimal in either case, and base64 in either alphabet wherever it begins in a longer
/// text.
fn encodings(what: &str, bytes: &[u8], into: &mut Patterns) {
    into.push((what.to_owned(), bytes.to_vec()));
    into.push((format!("{what} in hex"), hex::encode(bytes).into_bytes()));
    into.push((format!("{what} in HEX"), hex::encode_upper(bytes).into_bytes()));
    for shift in 0..3 {
        for last in [b"+/", b"-_"] {
            let text = base64_within(bytes, shift, *last);
            into.push((format!("{what} in base64 after {shift}"), text));
        }
    }
}

/// The characters of a base64 text that these bytes alone decide, if so many bytes of its first
/// group stand before them.
fn base64_within(bytes: &[u8], before: usize, last: [u8; 2]) -> Vec<u8> {
    let alphabet: Vec<u8> =
        (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain(last).collect();
    let bits: Vec<bool> = std::iter::repeat_n(0, before)
        .chain(bytes.iter().copied())
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
        .collect();
    let first = (before * 8).div_ceil(6) * 6;
    let sixes = bits[first..].chunks_exact(6);
    sixes.map(|six| alphabet[six.iter().fold(0, |sum, bit| sum * 2 + usize::from(*bit))]).collect()
}

/// Every file that the service and its database may have written to.
struct Files {
    roots: Vec<PathBuf>,
    /// Other databases of the same server.
    without: Vec<PathBuf>,
}

impl Files {
    async fn of(service: &Service) -> Self {
        let (mut roots, mut without) = (vec![service.folder().to_owned()], Vec::new());
        if let Some(url) = service.postgres_url() {
            let own = postgres::written_folder(url).await;
            let data = postgres::data_folder();
            // The server's log lies beside them.
            let server = data.parent().unwrap().to_owned();
            for database in std::fs::read_dir(data.join("base")).unwrap() {
                let path = database.unwrap().path();
                if path != own {
                    without.push(path);
                }
            }
            roots.push(server);
        }
        Self { roots, without }
    }

    /// What of the patterns stands where.
    fn holding(&self, patterns: &Patterns) -> Vec<String> {
        let all = self.roots.iter().flat_map(|root| files_below(root));
        let own = all.filter(|path| !self.without.iter().any(|folder| path.starts_with(folder)));
        own.flat_map(|path| held(&path, &std::fs::read(&path).unwrap_or_default(), patterns))
            .collect()
    }
}

fn held(path: &Path, bytes: &[u8], patterns: &Patterns) -> Vec<String> {
    let holds = |pattern: &[u8]| memmem::find(bytes, pattern).is_some();
    let held = patterns.iter().filter(|(_, pattern)| holds(pattern));
    held.map(|(what, _)| format!("{what} in {}", path.display())).collect()
}

/// The wrapped keys and sealed texts of the persons, who came in last.
async fn sealed(service: &Service) -> Patterns {
    const LAST: &str = "SELECT s.id FROM samples s JOIN models m ON m.id = s.model_id
         WHERE s.ordinal >= CASE WHEN m.name = 'people' THEN 300 ELSE 120 END";
    let sql = format!(
        "SELECT wrapped FROM data_keys WHERE sample_id IN ({LAST})
         UNION ALL SELECT sealed FROM sample_contents WHERE sample_id IN ({LAST})
         UNION ALL SELECT sealed FROM sample_predictions WHERE sample_id IN ({LAST})"
    );
    let sql = sqlx::AssertSqlSafe(sql);
    let texts: Vec<Vec<u8>> = if let Some(url) = service.postgres_url() {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = sqlite(service, "forgetd.sqlite").await;
        sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
    };
    texts.into_iter().map(|text| ("a sealed text".to_owned(), text)).collect()
}

/// A database file of the data folder.
async fn sqlite(service: &Service, file: &str) -> SqliteConnection {
    let path = service.folder().join("data").join(file);
    SqliteConnection::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap()
}

/// Both models, learnt, each with a sample or two of these persons that came in last.
async fn population(service: &Service, persons: &[&Person]) {
    let created = service.post("/v1/models", &people::model(&people::unsettled())).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    let mut tensors = people::model(&people::unsettled());
    tensors["name"] = json!(TENSORS);
    tensors["schema"] = json!({"tensor": {"shape": [WIDTH]}});
    let created = service.post("/v1/models", &tensors).await;
    assert_eq!(created.status, StatusCode::CREATED, "{created:#?}");
    let others = (0..120).map(|number| {
        let mut rng = ChaCha8Rng::seed_from_u64(number);
        let features: Vec<f32> = (0..WIDTH).map(|_| rng.random_range(0.0..1.0)).collect();
        json!({
            "subject_id": format!("person-{number}"), "features": features,
            "split": if number < 90 { "train" } else { "holdout" },
            "label": if features[0] > 0.5 { "high" } else { "low" },
        })
    });
    let tensors = others.chain(persons.iter().flat_map(|it| it.tensors()));
    for (model, body) in [(MODEL, people::population()), (TENSORS, people::ndjson(tensors))] {
        let request = service.request(Method::POST, &format!("/v1/models/{model}/samples"));
        let request = request.header("content-type", "application/x-ndjson").body(body);
        let ingested = answer(request).await;
        assert_eq!(ingested.status, StatusCode::CREATED, "{ingested:#?}");
    }
    ingest_file(service, &persons.iter().map(|it| it.row()).collect::<String>());
    for model in [MODEL, TENSORS] {
        train(service, model).await;
    }
}

/// By a process of its own, from a file that lies elsewhere; what it says is searched too.
fn ingest_file(service: &Service, rows: &str) {
    let mut file = tempfile::Builder::new().suffix(".csv").tempfile().unwrap();
    write!(file, "{COLUMNS}{rows}").unwrap();
    let said = std::fs::File::create(service.folder().join("said")).unwrap();
    let ended = service
        .command()
        .args(["ingest", "--model", MODEL, "--subject", "subject", "--sample-id", "sample"])
        .args(["--alias", "email=mail", "--file"])
        .arg(file.path())
        .stdout(said.try_clone().unwrap())
        .stderr(said)
        .status();
    assert!(ended.unwrap().success());
}

async fn train(service: &Service, model: &str) {
    let path = format!("/v1/models/{model}/training-runs");
    let queued = service.post(&path, &json!({"kind": "training"})).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{queued:#?}");
    let run = format!("{path}/{}", queued.body["id"].as_str().unwrap());
    super::eventually(
        "the run ends",
        async || service.get(&run).await.body,
        |run| run["state"] == "completed",
    )
    .await;
}

async fn forget(service: &Service, person: &Person) -> Vec<String> {
    let mut ids = Vec::new();
    for model in [MODEL, TENSORS] {
        let body = json!({"model": model, "subjects": [person.subject]});
        let accepted = service.post("/v1/deletion-requests", &body).await;
        assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:#?}");
        ids.push(accepted.body["id"].as_str().unwrap().to_owned());
    }
    ids
}

/// Steps at which what is to be destroyed is there in part.
const KILLS: [&str; 4] = [
    "erase_batch.keys_destroyed",
    "publish.committed",
    "complete_propagated.purged",
    "complete_propagated.committed",
];

/// Logs everything that it can log, and is restarted soon after it was killed.
const ENVIRONMENT: [(&str, &str); 3] = [
    ("FORGETD_TELEMETRY__LOG", "debug,forgetd=trace,sqlx=debug"),
    ("FORGETD_WORKER__LEASE_S", "1"),
    ("FORGETD_SERVING__LEASE_S", "1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_file_holds_a_forgotten_person() {
    for database in Database::ALL {
        let mut service = Service::start_with(database, &ENVIRONMENT, &[]).await;
        let (plain, killed) = (Person::new(1), Person::new(2));
        population(&service, &[&plain, &killed]).await;
        the_search_finds_what_is_there(&service, &Person::new(3)).await;
        let sealed = sealed(&service).await;
        assert!(service.keeps_memory_out_of_core_files());
        assert_eq!(sealed.len(), 18, "three samples each, three texts each");
        let held = Files::of(&service).await.holding(&sealed);
        assert!(held.len() >= sealed.len(), "the sealed texts are there before");

        for id in forget(&service, &plain).await {
            service.request_becomes(&id, "completed").await;
        }
        let nothing = Vec::<String>::new();
        assert_eq!(Files::of(&service).await.holding(&plain.patterns()), nothing, "{database:?}");

        // Killed on its way, and again; then it goes on.
        let mut ids = Vec::new();
        service
            .kill_at_each(&KILLS, async |service, number| {
                if number == 0 {
                    ids = forget(service, &killed).await;
                }
            })
            .await;
        for id in &ids {
            service.request_becomes(id, "completed").await;
        }
        let files = Files::of(&service).await;
        assert_eq!(files.holding(&killed.patterns()), nothing, "{database:?}");
        let sealed = files.holding(&sealed);
        if database == Database::Sqlite {
            assert_eq!(sealed, nothing, "nor sealed");
        }
        println!("{database:?}: {} places still hold sealed texts", sealed.len());
    }
}

/// The same patterns of somebody who never came in, unencrypted where the service's texts are.
async fn the_search_finds_what_is_there(service: &Service, somebody: &Person) {
    let patterns = somebody.patterns();
    if let Some(url) = service.postgres_url() {
        let mut connection = PgConnection::connect(url).await.unwrap();
        connection.execute("CREATE TABLE unencrypted (copy BYTEA)").await.unwrap();
        for (_, pattern) in &patterns {
            let insert = sqlx::query("INSERT INTO unencrypted VALUES ($1)").bind(pattern);
            insert.execute(&mut connection).await.unwrap();
        }
    } else {
        let mut connection = sqlite(service, "unencrypted.sqlite").await;
        connection.execute("CREATE TABLE unencrypted (copy BLOB)").await.unwrap();
        for (_, pattern) in &patterns {
            let insert = sqlx::query("INSERT INTO unencrypted VALUES ($1)").bind(pattern);
            insert.execute(&mut connection).await.unwrap();
        }
    }
    let found = Files::of(service).await.holding(&patterns);
    for (what, _) in &patterns {
        assert!(found.iter().any(|it| it.starts_with(what.as_str())), "{what} is not found");
    }
}

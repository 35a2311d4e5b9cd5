use super::*;
use crate::{
    dataset::raw_sample::Place,
    domain::{
        features::Cell,
        sample::Split,
        schema::{SchemaError, TensorSchema},
    },
};

const TABLE: &str = "\
person,age,work,when,income
p-1,39, State-gov ,train,<=50K
p-2,50.5,\"Self, emp\",holdout,>50K
";

fn mapping() -> Mapping {
    Mapping {
        sample_id: None,
        subject_id: "person".into(),
        label: "income".into(),
        split: Some("when".into()),
        aliases: Vec::new(),
    }
}

fn columns() -> InputSchema {
    // Not in the file's order: columns are found by name.
    InputSchema::Columns(vec![
        Column { name: "work".into(), kind: ColumnKind::Categorical },
        Column { name: "age".into(), kind: ColumnKind::Numeric },
    ])
}

fn read(table: &[u8]) -> Result<Vec<RawSample>, ReadError> {
    samples(table, &columns(), &mapping())?.collect()
}

fn refusal(table: &[u8]) -> String {
    read(table).unwrap_err().to_string()
}

#[test]
fn rows_become_samples_in_the_order_of_the_schema() {
    let samples = read(TABLE.as_bytes()).unwrap();
    let expected = RawSample {
        sample_id: "p-1".into(),
        subject_id: "p-1".into(),
        split: Some(Split::Train),
        aliases: Vec::new(),
        features: Features::Row(vec![Cell::Text("State-gov".into()), Cell::Number(39.0)]),
        label: "<=50K".into(),
    };
    assert_eq!(samples[0], expected);
    assert_eq!(samples[1].split, Some(Split::Holdout));
    let cells = vec![Cell::Text("Self, emp".into()), Cell::Number(50.5)];
    assert_eq!(samples[1].features, Features::Row(cells));
    assert_eq!(samples.len(), 2);
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let table = format!("\u{feff}{}", TABLE.replace('\n', "\r\n"));
    assert_eq!(read(table.as_bytes()).unwrap(), read(TABLE.as_bytes()).unwrap());
    for (good, broken) in [("50.5", "fifty"), ("50.5", "50.5,1")] {
        let error = refusal(table.replace(good, broken).as_bytes());
        assert_eq!(error, refusal(TABLE.replace(good, broken).as_bytes()));
        assert!(error.starts_with("line 3"), "{error}");
    }
}

#[test]
fn a_column_is_numeric_if_all_its_cells_are() {
    let schema = infer_schema(TABLE.as_bytes(), &mapping()).unwrap();
    let column = |name: &str, kind| Column { name: name.into(), kind };
    let expected = [column("age", ColumnKind::Numeric), column("work", ColumnKind::Categorical)];
    assert_eq!(schema, InputSchema::Columns(expected.to_vec()));
    // The very last cell decides.
    for odd in ["", "unknown", "inf", "1e39"] {
        let table = format!("{TABLE}p-3,{odd},x,train,>50K\n");
        let InputSchema::Columns(columns) = infer_schema(table.as_bytes(), &mapping()).unwrap()
        else {
            panic!("columns give columns")
        };
        assert_eq!(columns[0].kind, ColumnKind::Categorical, "{odd}");
    }
}

#[test]
fn tensors_take_all_columns_that_are_not_mapped() {
    let schema = InputSchema::Tensor(TensorSchema { shape: vec![2], scale: 1 });
    let table = |cell: &str| format!("person,a,when,b,income\np,{cell},train,255,x\n");
    let features = |cell: &str| {
        let table = table(cell);
        let mut samples = samples(table.as_bytes(), &schema, &mapping()).unwrap();
        samples.next().unwrap().map(|sample| sample.features)
    };
    assert_eq!(features("7").unwrap(), Features::Pixels(vec![7, 255]));
    assert_eq!(features("-7").unwrap(), Features::Floats(vec![-7.0, 255.0]));
    let error = features("1e39").unwrap_err().to_string();
    assert!(error.contains(r#"line 2, column "a""#) && error.contains("not finite"), "{error}");
    let error = samples(
        TABLE.as_bytes(),
        &InputSchema::Tensor(TensorSchema { shape: vec![3], scale: 1 }),
        &mapping(),
    );
    let error = error.err().unwrap().to_string();
    assert!(error.contains("[3]") && error.contains("there are 2"), "{error}");
}

#[test]
fn what_stands_in_a_row_that_has_slipped_is_not_repeated() {
    let error = refusal(TABLE.replace("50.5", "alice@example.org").as_bytes());
    assert!(error.contains("line 3") && error.contains("17 characters"), "{error}");
    assert!(!error.contains("alice"), "{error}");
}

#[test]
fn a_cell_that_is_no_number_is_named_with_line_and_column() {
    let error = refusal(TABLE.replace("50.5", "fifty").as_bytes());
    assert_eq!(error, r#"line 3, column "age": expected a number, found text of 5 characters"#);
    for odd in ["NaN", "inf", "-1e999", "1e39"] {
        let error = refusal(TABLE.replace("50.5", odd).as_bytes());
        assert!(error.starts_with(r#"line 3, column "age""#), "{error}");
        assert!(error.ends_with("found one that is not finite in single precision"), "{error}");
    }
    let error = refusal(TABLE.replace("holdout", "test").as_bytes());
    assert!(error.contains(r#"column "when""#) && error.contains(r#""train""#), "{error}");
    assert!(error.ends_with("found text of 4 characters"), "{error}");
    let error = refusal(TABLE.replace("p-2", "").as_bytes());
    assert!(error.contains(r#"line 3, column "person""#), "{error}");
}

#[test]
fn reading_ends_at_the_first_error() {
    let table = TABLE.replace("39", "x");
    let mut samples = samples(table.as_bytes(), &columns(), &mapping()).unwrap();
    assert!(samples.next().unwrap().is_err());
    assert!(samples.next().is_none());
}

#[test]
fn a_missing_column_is_named_with_those_that_are_there() {
    let error = refusal(TABLE.replace("age", "years").as_bytes());
    assert_eq!(
        error,
        r#"there is no column "age"; the file has "person", "years", "work", "when", "income""#
    );
    let mapping = Mapping { label: "class".into(), ..mapping() };
    let error = infer_schema(TABLE.as_bytes(), &mapping).unwrap_err();
    assert!(matches!(error, ReadError::MissingColumn { column, .. } if column == "class"));
}

#[test]
fn a_column_that_is_there_twice_is_refused() {
    let error = read(TABLE.replace("work", "age").as_bytes()).unwrap_err();
    assert!(matches!(error, ReadError::DuplicateColumn(name) if name == "age"));
}

#[test]
fn empty_files_are_refused_with_or_without_a_header() {
    let header = TABLE.lines().next().unwrap();
    for table in ["", "\n\n", header] {
        assert!(matches!(read(table.as_bytes()), Err(ReadError::Empty)), "{table:?}");
        let schema = infer_schema(table.as_bytes(), &mapping());
        assert!(matches!(schema, Err(ReadError::Empty)), "{table:?}");
    }
}

#[test]
fn a_schema_is_inferred_only_where_a_model_may_have_it() {
    let bare = infer_schema("person,when,income\np-1,train,x\n".as_bytes(), &mapping());
    assert!(matches!(bare, Err(ReadError::Schema(SchemaError::NoColumns))), "{bare:?}");
    let nameless = infer_schema("person,,when,income\np-1,3,train,x\n".as_bytes(), &mapping());
    assert!(
        matches!(&nameless, Err(ReadError::Schema(SchemaError::ColumnName(it))) if it.is_empty()),
        "{nameless:?}"
    );
}

#[test]
fn a_broken_row_is_named() {
    let error = refusal(format!("{TABLE}p-3,40,Private\n").as_bytes());
    assert_eq!(error, "line 4: the row has 3 cells, but the header has 5");
}

#[test]
fn invalid_utf_8_is_named_with_line_and_column() {
    let mut table = TABLE.as_bytes().to_vec();
    let at = table.windows(4).position(|four| four == b"50.5").unwrap();
    table[at] = 0xff;
    let error = refusal(&table);
    assert_eq!(error, r#"line 3, column "age": expected UTF-8, found other bytes"#);
    table[1] = 0xff;
    assert!(refusal(&table).starts_with("line 1: "));
}

#[test]
fn a_quote_that_is_never_closed_does_not_fill_the_memory() {
    let endless = TABLE.replace('"', "").replace(" State-gov", "\"State-gov").into_bytes();
    let endless = endless.as_slice().chain(std::io::repeat(b'x'));
    let error = samples(endless, &columns(), &mapping()).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(&error, ReadError::Record { place: Place::Line(2), .. }), "{error}");
    assert!(error.to_string().contains("longer than"), "{error}");
    // Nor does a header.
    let header = samples(std::io::repeat(b'x'), &columns(), &mapping());
    assert!(matches!(header, Err(ReadError::Record { place: Place::Line(1), .. })));
}

#[test]
fn a_file_that_ends_within_quotes_is_refused() {
    let (rows, last) = (format!("{TABLE}p-3,40,a,train,b\n"), "p-4,41,a,train,\"c");
    let expected = "line 5: the file ends within a quoted cell of this row; is a quote open?";
    // Also where the row's cells are too few by that, or the end is not that of a line.
    for end in ["", "\n", "\r\n", "\"\""] {
        assert_eq!(refusal(format!("{rows}{last}{end}").as_bytes()), expected);
    }
    let early = format!("{rows}p-4,41,\"a,train,c\n");
    assert_eq!(refusal(early.as_bytes()), expected);
    let schema = infer_schema(early.as_bytes(), &mapping()).unwrap_err();
    assert_eq!(schema.to_string(), expected);
    let header =
        refusal(TABLE.replace("income", "\"income").replace("\"Self, emp\"", "x").as_bytes());
    assert!(header.starts_with("line 1: the file ends within"), "{header}");
    // A quote that is closed by the very last byte is no other than one that a line end follows.
    for end in ["", "\n", "\r\n"] {
        assert_eq!(read(format!("{rows}{last}\"{end}").as_bytes()).unwrap().len(), 4);
        assert_eq!(read(format!("{rows}p-4,41,a,train,c{end}").as_bytes()).unwrap().len(), 4);
    }
}

#[test]
fn names_and_categories_have_no_line_breaks() {
    // Two stray quotes: the rows between them would be a part of the first cell.
    for (rows, column, expected) in [
        ("p-3,40,a,train,\"b\np-4,41,a,train,c\np-5,42,a,train,d\"\n", "income", "a name"),
        ("p-3,40,\"a,train,b\np-4,41,a,train,c\np-5,42,a\",train,d\n", "work", "a category"),
    ] {
        for rows in [rows.to_owned(), rows.replace('\n', "\r\n")] {
            let error = refusal(format!("{TABLE}{rows}").as_bytes());
            let found = "found a line break; is a quote open?";
            assert_eq!(error, format!("line 4, column \"{column}\": expected {expected}, {found}"));
        }
    }
    let error = refusal(format!("{TABLE}\"p\r3\",40,a,train,b\n").as_bytes());
    assert!(error.starts_with(r#"line 4, column "person": expected a name"#), "{error}");
}

#[test]
#[ignore = "reads UCI Adult from the folder that FORGETD_TEST_DATA names"]
fn whole_tables_are_read() {
    let folder = std::env::var_os("FORGETD_TEST_DATA").expect("FORGETD_TEST_DATA");
    let mapping = Mapping {
        sample_id: None,
        subject_id: "person_id".into(),
        label: "income".into(),
        split: None,
        aliases: Vec::new(),
    };
    for (name, rows) in [("adult-train.csv", 32_561), ("adult-test.csv", 16_281)] {
        let file = || std::fs::File::open(std::path::Path::new(&folder).join(name)).unwrap();
        let started = std::time::Instant::now();
        let schema = infer_schema(file(), &mapping).unwrap();
        let inferred = started.elapsed();
        let InputSchema::Columns(columns) = &schema else { panic!("columns give columns") };
        let numeric = columns.iter().filter(|column| column.kind == ColumnKind::Numeric);
        assert_eq!((columns.len(), numeric.count()), (14, 6), "{name}");
        let started = std::time::Instant::now();
        let samples = samples(file(), &schema, &mapping).unwrap();
        let count = samples.inspect(|sample| assert!(sample.is_ok(), "{sample:?}")).count();
        println!("{name}: {count} rows in {:?}, inferred in {inferred:?}", started.elapsed());
        assert_eq!(count, rows, "{name}");
    }
}

#[test]
fn aliases_come_as_hashes_and_are_no_features() {
    let table = b"person,mail,tel,age,work,when,income\n\
        p-1,Anna.Smith@Domain.com,,39,x,train,a\n\
        p-2, ,+1(415)555-9317,40,y,train,b\n";
    let aliases = vec![(AliasKind::Email, "mail".into()), (AliasKind::Phone, "tel".into())];
    let mapping = Mapping { aliases, ..mapping() };
    let samples = samples(&table[..], &columns(), &mapping).unwrap();
    let samples = samples.collect::<Result<Vec<_>, _>>().unwrap();
    let email = AliasKind::Email.digest("anna.smith@domain.com").unwrap();
    assert_eq!(samples[0].aliases, [(AliasKind::Email, email)]);
    assert_eq!(samples[1].aliases.len(), 1, "an empty cell is no alias");
    let InputSchema::Columns(inferred) = infer_schema(&table[..], &mapping).unwrap() else {
        panic!("a table has columns")
    };
    assert_eq!(inferred.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["age", "work"]);
    let broken = b"person,mail,tel,age,work,when,income\np-1,anna,,39,x,train,a\n";
    let error = super::samples(&broken[..], &columns(), &mapping).unwrap().next().unwrap();
    let error = error.unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("mail"), "{error}");
    assert!(!error.contains("anna"), "what is refused is not repeated: {error}");
}

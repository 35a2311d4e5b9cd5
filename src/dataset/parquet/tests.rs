use std::{fs::File, io::Cursor, path::PathBuf, sync::Arc};

use ::image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use ::parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::{
        metadata::{KeyValue, SortingColumn},
        properties::{EnabledStatistics, WriterProperties, WriterVersion},
    },
};
use arrow_array::{
    ArrayRef, BinaryArray, Float64Array, Int64Array, StringArray, StructArray, new_null_array,
};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use bytes::Bytes;

use super::*;
use crate::domain::{
    sample::Split,
    schema::{SchemaError, TensorSchema},
};

const ROWS: usize = 3;
/// `[height, width]`: not square, so that no side can stand for the other.
const SIZE: (u32, u32) = (4, 6);

fn color(row: usize, x: u32, y: u32) -> [u8; 3] {
    [10 * u8::try_from(row).unwrap(), 40 * u8::try_from(x).unwrap(), 60 * u8::try_from(y).unwrap()]
}

fn picture(row: usize) -> DynamicImage {
    RgbImage::from_fn(SIZE.1, SIZE.0, |x, y| Rgb(color(row, x, y))).into()
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn pngs() -> Vec<Vec<u8>> {
    (0..ROWS).map(|row| encoded(&picture(row), ImageFormat::Png)).collect()
}

fn binary(images: &[Vec<u8>]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(images))
}

/// As data sets on the web have it: `img: struct<bytes: binary, path: string>`.
fn structs(images: &[Vec<u8>]) -> ArrayRef {
    let parts = [
        ("bytes", binary(images)),
        ("path", Arc::new(StringArray::from(vec![None::<&str>; images.len()])) as ArrayRef),
    ];
    Arc::new(StructArray::try_from(parts.to_vec()).unwrap())
}

fn numbers(numbers: &[i64]) -> ArrayRef {
    Arc::new(Int64Array::from(numbers.to_vec()))
}

fn strings(strings: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(strings.to_vec()))
}

fn file(columns: Vec<(&str, ArrayRef)>) -> Bytes {
    written(columns, WriterProperties::default())
}

fn written(columns: Vec<(&str, ArrayRef)>, properties: WriterProperties) -> Bytes {
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.into_inner().unwrap().into()
}

fn label_only() -> Mapping {
    Mapping {
        sample_id: None,
        source: "row".into(),
        subject_id: None,
        label: "label".into(),
        split: None,
        aliases: Vec::new(),
    }
}

fn tensor(shape: [usize; 3]) -> InputSchema {
    InputSchema::Tensor(TensorSchema { shape: shape.to_vec(), scale: 255 })
}

fn read(file: Bytes, schema: &InputSchema, mapping: &Mapping) -> Result<Vec<RawSample>, ReadError> {
    samples(file, schema, mapping)?.collect()
}

#[test]
fn images_become_planes_of_pixels() {
    for (name, images) in
        [("img", structs(&pngs())), ("image", structs(&pngs())), ("x", binary(&pngs()))]
    {
        let file = file(vec![(name, images), ("label", numbers(&[7, 0, 9]))]);
        assert_eq!(infer_schema(file.clone(), &label_only()).unwrap(), tensor([3, 4, 6]));
        let samples = read(file, &tensor([3, 4, 6]), &label_only()).unwrap();
        assert_eq!(samples.len(), ROWS);
        for (row, sample) in samples.iter().enumerate() {
            assert_eq!(sample.sample_id, format!("row-{row}"));
            assert_eq!(sample.subject_id, sample.sample_id);
            assert_eq!(sample.split, None);
            let Features::Pixels(pixels) = &sample.features else { panic!("images are pixels") };
            for (channel, plane) in pixels.chunks(4 * 6).enumerate() {
                let at = |y: u32, x: u32| plane[(y * SIZE.1 + x) as usize];
                assert_eq!(at(0, 0), color(row, 0, 0)[channel]);
                assert_eq!(at(1, 5), color(row, 5, 1)[channel]);
                assert_eq!(at(3, 2), color(row, 2, 3)[channel]);
            }
        }
        let labels: Vec<_> = samples.iter().map(|sample| sample.label.as_str()).collect();
        assert_eq!(labels, ["7", "0", "9"]);
    }
}

#[test]
fn grey_and_jpeg_images_are_read_too() {
    let grey = DynamicImage::from(picture(0).into_luma8());
    let levels = grey.as_bytes().to_vec();
    let images = [encoded(&grey, ImageFormat::Png), encoded(&grey, ImageFormat::Jpeg)];
    let file = file(vec![("img", structs(&images)), ("label", numbers(&[0, 1]))]);
    assert_eq!(infer_schema(file.clone(), &label_only()).unwrap(), tensor([1, 4, 6]));
    let samples = read(file.clone(), &tensor([1, 4, 6]), &label_only()).unwrap();
    assert_eq!(samples[0].features, Features::Pixels(levels.clone()));
    // JPEG loses a little.
    let Features::Pixels(pixels) = &samples[1].features else { panic!("images are pixels") };
    assert_eq!(pixels.len(), levels.len());
    assert!(pixels.iter().zip(&levels).all(|(a, b)| a.abs_diff(*b) < 32), "{pixels:?}");
    // The schema decides how many channels there are.
    let samples = read(file, &tensor([3, 4, 6]), &label_only()).unwrap();
    assert_eq!(samples[0].features, Features::Pixels(levels.repeat(3)));
}

#[test]
fn the_mapped_columns_are_read_where_they_are() {
    let file = file(vec![
        ("label", strings(&["cat", "dog", "cat"])),
        ("img", structs(&pngs())),
        ("who", numbers(&[5, 5, 6])),
        ("thumbnail", binary(&pngs())),
        ("id", strings(&["a", "b", "c"])),
        ("set", strings(&["train", "holdout", "train"])),
    ]);
    let mapping = Mapping {
        source: "table".into(),
        sample_id: Some("id".into()),
        subject_id: Some("who".into()),
        label: "label".into(),
        split: Some("set".into()),
        aliases: Vec::new(),
    };
    let samples = read(file, &tensor([3, 4, 6]), &mapping).unwrap();
    let second = &samples[1];
    assert_eq!((second.sample_id.as_str(), second.subject_id.as_str()), ("b", "5"));
    assert_eq!((second.label.as_str(), second.split), ("dog", Some(Split::Holdout)));
}

fn table(ages: Vec<Option<f64>>) -> Bytes {
    file(vec![
        ("age", Arc::new(Float64Array::from(ages)) as ArrayRef),
        ("work", strings(&["a", "b", "a"])),
        ("hours", numbers(&[40, 41, -1])),
        ("label", strings(&["x", "y", "x"])),
    ])
}

fn columns() -> InputSchema {
    let column = |name: &str, kind| Column { name: name.into(), kind };
    InputSchema::Columns(vec![
        column("age", ColumnKind::Numeric),
        column("work", ColumnKind::Categorical),
        column("hours", ColumnKind::Numeric),
    ])
}

#[test]
fn plain_columns_are_a_table() {
    let file = table(vec![Some(1.5), Some(2.0), Some(3.0)]);
    assert_eq!(infer_schema(file.clone(), &label_only()).unwrap(), columns());
    let samples = read(file.clone(), &columns(), &label_only()).unwrap();
    let cells = vec![Cell::Number(3.0), Cell::Text("a".into()), Cell::Number(-1.0)];
    assert_eq!(samples[2].features, Features::Row(cells));
    // By name, in the schema's order.
    let InputSchema::Columns(mut columns) = columns() else { panic!("columns are columns") };
    columns.reverse();
    let samples = read(file, &InputSchema::Columns(columns), &label_only()).unwrap();
    let cells = vec![Cell::Number(-1.0), Cell::Text("a".into()), Cell::Number(3.0)];
    assert_eq!(samples[2].features, Features::Row(cells));
}

#[test]
fn a_value_that_cannot_serve_is_named_with_row_and_column() {
    for (odd, expected) in [
        (Some(f64::NAN), "found one that is not finite in single precision"),
        (Some(f64::INFINITY), "found one that is not finite in single precision"),
        (Some(1e39), "found one that is not finite in single precision"),
        (None, "expected a value, found null"),
    ] {
        let file = table(vec![Some(1.0), odd, Some(1.0)]);
        let mut samples = samples(file, &columns(), &label_only()).unwrap();
        assert!(samples.next().unwrap().is_ok());
        let error = samples.next().unwrap().unwrap_err().to_string();
        assert!(
            error.starts_with(r#"row 1, column "age": "#) && error.ends_with(expected),
            "{error}"
        );
        assert!(samples.next().is_none());
    }
}

#[test]
fn broken_and_misfit_images_are_named_with_row_and_column() {
    let refusal = |image: Vec<u8>, shape| {
        let images = [pngs()[0].clone(), image];
        let file = file(vec![("img", structs(&images)), ("label", numbers(&[0, 1]))]);
        read(file, &tensor(shape), &label_only()).unwrap_err()
    };
    let cut = &pngs()[1][..60];
    for broken in [b"no image".to_vec(), Vec::new(), cut.to_vec()] {
        let error = refusal(broken, [3, 4, 6]);
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(error.to_string(), r#"row 1, column "img": the image cannot be decoded"#);
    }
    let turned = encoded(&picture(1).rotate90(), ImageFormat::Png);
    assert_eq!(
        refusal(turned, [3, 4, 6]).to_string(),
        r#"row 1, column "img": expected an image of 4 rows by 6 columns, found 6 by 4"#
    );
    assert!(refusal(pngs()[1].clone(), [2, 4, 6]).to_string().contains("[2, 4, 6]"));

    let fields: Fields = vec![Field::new("bytes", DataType::Binary, true)].into();
    for absent in [
        new_null_array(&DataType::Binary, 1),
        new_null_array(&DataType::Struct(fields.clone()), 1),
        Arc::new(StructArray::new(fields, vec![new_null_array(&DataType::Binary, 1)], None)),
    ] {
        let file = file(vec![("img", absent), ("label", numbers(&[0]))]);
        let error = read(file.clone(), &tensor([3, 4, 6]), &label_only()).unwrap_err().to_string();
        assert_eq!(error, r#"row 0, column "img": expected an image, found null"#);
        assert!(infer_schema(file, &label_only()).is_err());
    }
}

#[test]
fn a_jpeg_image_that_is_cut_is_refused() {
    let low = |number: u32| number.to_le_bytes()[0];
    let picture = RgbImage::from_fn(64, 64, |x, y| Rgb([low(x * y), low(7 * x), low(y)]));
    let whole = encoded(&picture.into(), ImageFormat::Jpeg);
    let read = |image: Vec<u8>| {
        let file = file(vec![("img", structs(&[image])), ("label", numbers(&[0]))]);
        read(file, &tensor([3, 64, 64]), &label_only())
    };
    let pixels = read(whole.clone()).unwrap();
    assert_eq!(read([whole.clone(), vec![0; 3]].concat()).unwrap(), pixels);
    for length in [whole.len() / 2, whole.len() * 3 / 4, whole.len() - 2, whole.len() - 1] {
        assert_eq!(
            read(whole[..length].to_vec()).unwrap_err().to_string(),
            "row 0, column \"img\": expected a whole JPEG image, found one without its \
             end-of-image marker"
        );
    }
}

#[test]
fn a_schema_is_inferred_only_where_a_model_may_have_it() {
    // Its header says that it has 65,535 rows and as many columns.
    let mut huge = encoded(&picture(0), ImageFormat::Jpeg);
    let frame = huge.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    huge[frame + 5..frame + 9].fill(0xff);
    let images = file(vec![("img", binary(&[huge])), ("label", numbers(&[7]))]);
    let error = infer_schema(images, &label_only());
    let side = usize::from(u16::MAX);
    assert!(
        matches!(&error, Err(ReadError::Schema(SchemaError::Shape(it))) if *it == [3, side, side]),
        "{error:?}"
    );
    let labels = file(vec![("label", numbers(&[7]))]);
    let error = infer_schema(labels, &label_only());
    assert!(matches!(error, Err(ReadError::Schema(SchemaError::NoColumns))), "{error:?}");
}

#[test]
fn columns_that_are_missing_or_of_the_wrong_type_are_named() {
    let file = table(vec![Some(1.0); ROWS]);
    let elsewhere = Mapping { label: "class".into(), ..label_only() };
    let error = read(file.clone(), &columns(), &elsewhere).unwrap_err().to_string();
    assert_eq!(
        error,
        r#"there is no column "class"; the file has "age", "work", "hours", "label""#
    );
    let real = Mapping { label: "age".into(), ..label_only() };
    let error = read(file.clone(), &columns(), &real).unwrap_err().to_string();
    assert!(error.contains(r#"column "age" holds Float64"#), "{error}");
    let swapped = Column { name: "work".into(), kind: ColumnKind::Numeric };
    let error = read(file.clone(), &InputSchema::Columns(vec![swapped]), &label_only());
    assert!(matches!(error, Err(ReadError::ColumnType { column, .. }) if column == "work"));
    let error = read(file, &tensor([3, 4, 6]), &label_only()).unwrap_err().to_string();
    assert!(error.contains("no image column") && error.contains(r#""hours""#), "{error}");

    let several = self::file(vec![
        ("front", binary(&pngs())),
        ("back", binary(&pngs())),
        ("label", numbers(&[0, 1, 2])),
    ]);
    let error = infer_schema(several, &label_only()).unwrap_err().to_string();
    assert!(error.contains(r#"["front", "back"]"#), "{error}");
}

/// Whatever a writer may say in a footer and in the headers of pages passes the checks.
#[test]
fn writers_may_say_all_that_the_format_has() {
    let plain = WriterProperties::builder();
    let order = SortingColumn { column_idx: 0, descending: false, nulls_first: true };
    let wordy = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_2_0)
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_write_page_header_statistics(true)
        .set_bloom_filter_enabled(true)
        .set_sorting_columns(Some(vec![order]))
        .set_key_value_metadata(Some(vec![KeyValue::new("who".into(), None)]));
    let element = Arc::new(Field::new("element", DataType::Int32, true));
    let entry =
        vec![Field::new("keys", DataType::Utf8, false), Field::new("values", DataType::Utf8, true)];
    let entry = Arc::new(Field::new("entries", DataType::Struct(entry.into()), false));
    let others = [
        DataType::Boolean,
        DataType::UInt8,
        DataType::Int64,
        DataType::Float16,
        DataType::Date32,
        DataType::Time64(TimeUnit::Nanosecond),
        DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        DataType::Decimal128(20, 3),
        DataType::FixedSizeBinary(5),
        DataType::List(element),
        DataType::Map(entry, false),
    ];
    let names: Vec<_> = (0..others.len()).map(|number| format!("other {number}")).collect();
    for properties in [plain, wordy.clone(), wordy.set_dictionary_enabled(false)] {
        let mut columns = vec![
            ("age", Arc::new(Float64Array::from(vec![1.5, 2.0, 3.0])) as ArrayRef),
            ("work", strings(&["a", "b", "a"])),
            ("hours", numbers(&[40, 41, -1])),
            ("label", strings(&["x", "y", "x"])),
        ];
        let others = others.iter().map(|kind| new_null_array(kind, ROWS));
        columns.extend(names.iter().map(String::as_str).zip(others));
        let samples = read(written(columns, properties.build()), &self::columns(), &label_only());
        assert_eq!(samples.unwrap().len(), ROWS);
    }
}

#[test]
fn empty_and_damaged_files_are_refused() {
    assert!(matches!(read(Bytes::new(), &columns(), &label_only()), Err(ReadError::Empty)));
    let no_rows = file(vec![("img", binary(&[])), ("label", numbers(&[]))]);
    let schema = tensor([3, 4, 6]);
    assert!(matches!(read(no_rows.clone(), &schema, &label_only()), Err(ReadError::Empty)));
    assert!(matches!(infer_schema(no_rows, &label_only()), Err(ReadError::Empty)));
    let whole = table(vec![Some(1.0); ROWS]);
    for damaged in [Bytes::from_static(b"age,label\n1,x\n"), whole.slice(..whole.len() - 9)] {
        let error = read(damaged, &columns(), &label_only()).unwrap_err();
        assert!(matches!(error, ReadError::Parquet { .. }), "{error}");
    }
}

#[test]
#[ignore = "reads CIFAR-10 and MNIST from the folder that FORGETD_TEST_DATA names"]
fn whole_image_data_sets_are_read() {
    let folder = PathBuf::from(std::env::var_os("FORGETD_TEST_DATA").expect("FORGETD_TEST_DATA"));
    for (name, rows, shape) in [
        ("cifar10-test", 10_000, [3, 32, 32]),
        ("cifar10-train", 50_000, [3, 32, 32]),
        ("mnist-test", 10_000, [1, 28, 28]),
        ("mnist-train", 60_000, [1, 28, 28]),
    ] {
        let file = || File::open(folder.join(name).with_extension("parquet")).unwrap();
        let schema = infer_schema(file(), &label_only()).unwrap();
        assert_eq!(schema, tensor(shape), "{name}");
        let started = std::time::Instant::now();
        let mut labels = std::collections::BTreeMap::<_, usize>::new();
        for sample in samples(file(), &schema, &label_only()).unwrap() {
            *labels.entry(sample.unwrap().label).or_default() += 1;
        }
        println!(
            "{name}: {} rows in {:?}; {labels:?}",
            labels.values().sum::<usize>(),
            started.elapsed()
        );
        assert_eq!(labels.values().sum::<usize>(), rows, "{name}");
        assert_eq!(labels.len(), 10, "{name}");
    }
}

#[test]
fn aliases_come_as_hashes_and_are_no_features() {
    let mails = Arc::new(StringArray::from(vec![Some("Anna.Smith@Domain.com"), None, Some("x")]));
    let file = file(vec![
        ("mail", mails as ArrayRef),
        ("age", numbers(&[1, 2, 3])),
        ("label", numbers(&[7, 0, 9])),
    ]);
    let mapping = Mapping { aliases: vec![(AliasKind::Email, "mail".into())], ..label_only() };
    let schema = infer_schema(file.clone(), &mapping).unwrap();
    let samples: Vec<_> = samples(file, &schema, &mapping).unwrap().collect();
    let email = AliasKind::Email.digest("anna.smith@domain.com").unwrap();
    assert_eq!(samples[0].as_ref().unwrap().aliases, [(AliasKind::Email, email)]);
    assert_eq!(samples[1].as_ref().unwrap().aliases, [], "a null is no alias");
    assert!(samples[2].as_ref().unwrap_err().to_string().contains("mail"));
}

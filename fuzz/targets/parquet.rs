#![no_main]

// The decoder's own panics are caught and become errors (src/dataset/parquet.rs), but libFuzzer's hook
// would end the process at each. What nobody catches ends it all the same, only without a message: the
// input in fuzz/artifacts, given to the target again by a test, has it.
libfuzzer_sys::fuzz_target!(
    init: std::panic::set_hook(Box::new(|_| {})),
    |data: &[u8]| forgetd_fuzz::parquet(data)
);

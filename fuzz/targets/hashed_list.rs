#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forgetd_fuzz::hashed_list(data));

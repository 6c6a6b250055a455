//! The files in `src/grpc/proto` are generated from those in `proto`.

use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

/// Set to write the files anew: `LEEWAY_WRITE_PROTO=1 cargo test --test leeway generated`.
const WRITE: &str = "LEEWAY_WRITE_PROTO";

#[test]
fn the_generated_messages_are_current() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/grpc/proto");
    for (name, content) in generated() {
        let file = folder.join(name);
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(&file, &content).unwrap();
        }
        let is_current = std::fs::read(&file).is_ok_and(|found| found == content);
        assert!(is_current, "{} is not current; {WRITE}=1 writes it anew", file.display());
    }
}

/// Returns the names and contents of the generated files.
fn generated() -> Vec<(&'static str, Vec<u8>)> {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let mut compiler = protox::Compiler::new([&proto]).unwrap();
    compiler.include_source_info(true);
    compiler.open_files(["open_inference.proto", "health.proto"]).unwrap();
    let described: FileDescriptorSet = compiler.file_descriptor_set();
    let folder = tempfile::tempdir().unwrap();
    let mut config = prost_build::Config::new();
    config.bytes(["."]).out_dir(folder.path()).compile_fds(described.clone()).unwrap();
    let read = |name: &str, about: &str| {
        let text = std::fs::read_to_string(PathBuf::from(folder.path()).join(name)).unwrap();
        format!("//! {about}\n//!\n//! Length: generated.\n\n{text}").into_bytes()
    };
    let mut short = described;
    short.file.iter_mut().for_each(|file| file.source_code_info = None);
    vec![
        (
            "inference.rs",
            read("inference.rs", "Messages of the Open Inference Protocol, from `proto/open_inference.proto`."),
        ),
        ("health.rs", read("grpc.health.v1.rs", "Messages of gRPC's health checks, from `proto/health.proto`.")),
        ("descriptors.bin", prost::Message::encode_to_vec(&short)),
    ]
}

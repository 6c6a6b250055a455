//! Tests of the store of models in an object store, on a store in memory.

use std::num::NonZeroU64;
use std::path::Path;

use object_store::memory::InMemory;

use super::*;
use crate::repository::VerifiedVersion;

/// A repository with the shipped model `digits`, versions 1 and 2.
fn repository(cache: &Path) -> RemoteStore {
    let config = RepositoryConfig {
        cache: Some(cache.to_owned()),
        cache_mb: NonZeroU64::new(64).unwrap(),
        ..RepositoryConfig::default()
    };
    let store = RemoteStore::over(Arc::new(InMemory::new()), "s3://bucket/models", "models", &config).unwrap();
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits");
    store.objects.write("digits/model.toml", &shipped.join("model.toml")).unwrap();
    for version in ["1", "2"] {
        for (name, path) in crate::repository::files_in(&shipped.join(version)).unwrap() {
            store.objects.write(&format!("digits/{version}/{name}"), &path).unwrap();
        }
        let manifest = shipped.join(version).join(MANIFEST_FILE);
        store.objects.write(&format!("digits/{version}/{MANIFEST_FILE}"), &manifest).unwrap();
    }
    store
}

fn unsigned(_: &Path, _: Version) -> Result<(), SetupError> {
    Ok(())
}

fn digits() -> ModelName {
    "digits".parse().unwrap()
}

#[test]
fn a_version_is_copied_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let store = repository(&folder.path().join("cache"));
    let found = store.list().unwrap();
    assert_eq!(found.problems, []);
    assert_eq!(found.models[0].versions.len(), 2);
    assert!(store.read_config(&digits()).is_ok());
    let version = store.materialise(&digits(), Version::FIRST).unwrap();
    let verified = VerifiedVersion::read(version).unwrap();
    assert_eq!(*verified.manifest, store.read_manifest(&digits(), Version::FIRST).unwrap());
    assert_eq!(verified.fingerprint, store.version_fingerprint(&digits(), Version::FIRST));
    assert_eq!(store.verify_files(&digits(), Version::FIRST).unwrap(), *verified.manifest);
    // Another call, with the files in the cache, needs the store only for its list.
    for path in store.objects.list().unwrap().keys().filter(|path| path.starts_with("digits/1/")) {
        store.objects.remove(path).unwrap();
    }
    VerifiedVersion::read(store.materialise(&digits(), Version::FIRST).unwrap()).unwrap();
}

#[test]
fn other_files_in_the_store_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let store = repository(&folder.path().join("cache"));
    store.list().unwrap();
    let before = store.version_fingerprint(&digits(), Version::FIRST);
    let held = store.materialise(&digits(), Version::FIRST).unwrap();
    let wrong = folder.path().join("wrong");
    std::fs::write(&wrong, "other bytes").unwrap();
    store.objects.write("digits/1/model.onnx", &wrong).unwrap();
    store.list().unwrap();
    assert_ne!(store.version_fingerprint(&digits(), Version::FIRST), before);
    let refusal = store.verify_files(&digits(), Version::FIRST).unwrap_err();
    assert_eq!(refusal.fault, LoadFault::Digest);
    assert!(refusal.message.contains("s3://bucket/models/digits/1/model.onnx"), "{refusal}");
    store.objects.write("digits/1/more.txt", &wrong).unwrap();
    store.list().unwrap();
    let refusal = store.materialise(&digits(), Version::FIRST).unwrap_err();
    assert!(refusal.message.contains("more.txt is not in the manifest"), "{refusal}");
    drop(held);
}

#[test]
fn a_store_works_on_a_thread_of_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let store = repository(&folder.path().join("cache"));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        assert!(store.materialise(&digits(), Version::FIRST).is_ok());
        drop(store);
    });
}

#[test]
fn versions_in_use_are_kept_and_others_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = RepositoryConfig {
        cache: Some(folder.path().join("cache")),
        cache_mb: NonZeroU64::MIN,
        ..RepositoryConfig::default()
    };
    let store = RemoteStore::over(Arc::new(InMemory::new()), "s3://bucket", "", &config).unwrap();
    let (model, second): (ModelName, Version) = ("large".parse().unwrap(), "2".parse().unwrap());
    for (version, byte) in [(Version::FIRST, 1), (second, 2)] {
        let made = folder.path().join(version.to_string());
        std::fs::create_dir(&made).unwrap();
        std::fs::write(made.join("model.onnx"), vec![byte; 700_000]).unwrap();
        Manifest::write_for(&made).unwrap();
        let config = (version == Version::FIRST).then_some("");
        store.publish(&model, &made, config, version, unsigned).unwrap();
    }
    store.list().unwrap();
    let loaded = store.materialise(&model, Version::FIRST).unwrap();
    let refusal = store.materialise(&model, second).unwrap_err();
    assert!(refusal.fault.is_transient() && refusal.message.contains("repository.cache_mb"), "{refusal}");
    drop(loaded);
    store.materialise(&model, second).unwrap();
    assert_eq!(std::fs::read_dir(store.cache.files()).unwrap().count(), 1);
}

#[test]
fn a_version_is_published_as_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = repository(&folder.path().join("cache"));
    let next = store.next_version(&digits()).unwrap();
    assert_eq!(next.get(), 3);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/digits/2");
    let published = store.publish(&digits(), &shipped, None, next, unsigned).unwrap();
    assert_eq!((published.version.get(), &*published.place), (3, "s3://bucket/models/digits/3"));
    // Another addition that began at the same time takes the version after it.
    assert_eq!(store.publish(&digits(), &shipped, None, next, unsigned).unwrap().version.get(), 4);
    assert_eq!(store.list().unwrap().models[0].versions.len(), 4);
    let version: Version = "4".parse().unwrap();
    VerifiedVersion::read(store.materialise(&digits(), version).unwrap()).unwrap();
    assert!(!store.objects.list().unwrap().keys().any(|path| path.contains(".adding")));
    let new: ModelName = "new".parse().unwrap();
    store.publish(&new, &shipped, Some("toml"), Version::FIRST, unsigned).unwrap();
    let problem = store.publish(&new, &shipped, Some("other"), Version::FIRST, unsigned).unwrap_err().to_string();
    assert!(problem.contains("another model.toml was added meanwhile"), "{problem}");
    assert_eq!(store.next_version(&new).unwrap().get(), 2);
}

/// A deployment.toml and a signature are small files beside the others, which count as a change of their own.
#[test]
fn deployments_and_signatures_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = repository(&folder.path().join("cache"));
    store.list().unwrap();
    assert_eq!(store.read_deployment(&digits()).unwrap(), None);
    let [none, unsigned] =
        [store.deployment_fingerprint(&digits()), store.version_fingerprint(&digits(), Version::FIRST)];
    store.objects.create("digits/deployment.toml", b"stable = 1\n").unwrap();
    store.objects.create("digits/1/version.toml.minisig", b"a signature").unwrap();
    store.list().unwrap();
    assert_eq!(store.read_deployment(&digits()).unwrap().unwrap().stable, Version::FIRST);
    assert_ne!(store.deployment_fingerprint(&digits()), none);
    assert_ne!(store.version_fingerprint(&digits(), Version::FIRST), unsigned);
    let place = store.materialise(&digits(), Version::FIRST).unwrap();
    assert_eq!(std::fs::read(place.folder().join(SIGNATURE_FILE)).unwrap(), b"a signature");
    assert!(VerifiedVersion::read(place).is_ok());
    // A signature that was removed is removed here, too.
    store.objects.remove("digits/1/version.toml.minisig").unwrap();
    store.list().unwrap();
    let place = store.materialise(&digits(), Version::FIRST).unwrap();
    assert!(!place.folder().join(SIGNATURE_FILE).exists());
}

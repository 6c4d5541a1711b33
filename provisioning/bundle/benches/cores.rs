//! The cores, for comparison from change to change: cutting, packing, putting together, hash trees, TUF.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use cairn_bundle::assemble::{Assembly, Whole};
use cairn_bundle::chunk::{Decoder, Encoder, id_of};
use cairn_bundle::publish::{self, Options};
use cairn_bundle::store::Store;
use cairn_bundle::tuf::{Limits, MemoryStore, Request, Updater};
use cairn_bundle::verity::TreeBuilder;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/common/mod.rs"]
mod common;

/// As compressible as programs are, about 2:1.
fn data(bytes: usize) -> Vec<u8> {
    let mut x = 1u64;
    (0..bytes / 8)
        .flat_map(|n| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            if n % 512 < 256 { x.to_le_bytes() } else { (n as u64 / 64).to_le_bytes() }
        })
        .collect()
}

fn components(c: &mut Criterion) {
    let bytes = data(16 << 20);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("component");
    std::fs::write(&path, &bytes).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let options = Options { level: 3, ..Options::default() };
    let published = publish::component(&path, &store, &options, &mut |_| {}).unwrap();

    let mut group = c.benchmark_group("component");
    group.sample_size(10).throughput(Throughput::Bytes(bytes.len() as u64));
    // Every chunk is in the store: cutting and hashing alone.
    group.bench_function("cut", |b| {
        b.iter(|| publish::component(&path, &store, &options, &mut |_| {}).unwrap().length);
    });
    group.bench_function("assemble", |b| {
        let frames: Vec<_> =
            published.index.entries().map(|e| (e.id, store.read_frame(&e.id).unwrap().unwrap())).collect();
        b.iter_batched(
            || tempfile::tempdir().unwrap(),
            |out| {
                let index = published.index.clone();
                let mut assembly = Assembly::open(&out.path().join("out"), index, Whole::default()).unwrap();
                frames.iter().for_each(|(id, frame)| {
                    assembly.feed(id, frame).unwrap();
                });
                assert_eq!(assembly.plan().missing_chunks(), 0);
                out
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("verity tree", |b| {
        b.iter(|| {
            let mut tree = TreeBuilder::new(bytes.len() as u64 / 4096, &[7; 32]).unwrap();
            let mut emit = |_: u64, block: &[u8; 4096]| {
                black_box(block);
                Ok(())
            };
            for block in bytes.as_chunks::<4096>().0 {
                tree.push(block, &mut emit).unwrap();
            }
            tree.finish(&mut emit).unwrap()
        });
    });
    group.finish();
}

fn chunks(c: &mut Criterion) {
    let plain = data(64 << 10);
    let id = id_of(&plain);
    let frame = Encoder::new(19).unwrap().encode(&plain).unwrap();
    let mut group = c.benchmark_group("chunk of 64 KiB");
    group.throughput(Throughput::Bytes(plain.len() as u64));
    let mut decoder = Decoder::new();
    group.bench_function("unpack and check", |b| {
        b.iter(|| decoder.decode(&id, plain.len() as u32, black_box(&frame)).unwrap().len());
    });
    group.sample_size(20);
    let mut encoder = Encoder::new(19).unwrap();
    group.bench_function("pack at level 19", |b| b.iter(|| encoder.encode(black_box(&plain)).unwrap().len()));
    group.finish();
}

fn tuf(c: &mut Criterion) {
    let sim = common::Sim::new();
    let anchor = sim.anchor();
    let update = |store: MemoryStore| {
        let mut updater = Updater::open(store, Some(&anchor), common::TODAY, Limits::default()).unwrap();
        let fetch = |request: &Request| Ok::<_, std::io::Error>(sim.files.get(&request.path).cloned());
        let step = updater.refresh();
        updater.run(step, fetch).unwrap();
        let step = updater.lookup(common::MANIFEST);
        updater.run(step, fetch).unwrap();
        updater.into_store()
    };
    let known = update(MemoryStore::default());
    let mut group = c.benchmark_group("TUF");
    group.bench_function("first update and look-up", |b| b.iter(|| update(MemoryStore::default()).0.len()));
    group.bench_function("nothing new", |b| b.iter(|| update(known.clone()).0.len()));
    group.finish();
}

criterion_group!(benches, components, chunks, tuf);
criterion_main!(benches);

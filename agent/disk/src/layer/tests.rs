use std::fs::{self, OpenOptions};

use proptest::prelude::*;

use super::*;

struct Files {
    dir: tempfile::TempDir,
    layer: Layer,
}

/// A layer of `blocks` blocks: no file system, but erofs' magic where it belongs, and each block different.
fn files(blocks: u64) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let (file, tree) = (dir.path().join("a.erofs"), dir.path().join("a.verity"));
    let mut bytes = vec![0; blocks as usize * BLOCK_BYTES];
    for (n, block) in bytes.chunks_exact_mut(BLOCK_BYTES).enumerate() {
        block[..8].copy_from_slice(&(n as u64).to_le_bytes());
    }
    bytes[EROFS_MAGIC.0..EROFS_MAGIC.0 + 4].copy_from_slice(&EROFS_MAGIC.1);
    fs::write(&file, &bytes).unwrap();
    let salt = vec![7; 32];
    let mut builder = TreeBuilder::new(blocks, &salt).unwrap();
    let mut hashes = vec![0; tree_bytes(blocks) as usize];
    let mut emit = |at: u64, block: &[u8; BLOCK_BYTES]| {
        hashes[at as usize..at as usize + BLOCK_BYTES].copy_from_slice(block);
        Ok(())
    };
    for block in bytes.chunks_exact(BLOCK_BYTES) {
        builder.push(block.try_into().unwrap(), &mut emit).unwrap();
    }
    let root_hash = builder.finish(&mut emit).unwrap();
    fs::write(&tree, &hashes).unwrap();
    Files { dir, layer: Layer { name: "base".to_owned(), file, tree, root_hash, salt, data_blocks: blocks } }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn block_of(error: LayerError) -> Option<BadBlock> {
    assert_eq!(error.code(), Some("layer-corrupt"), "{error}");
    match error {
        LayerError::Corrupt { layer, block, .. } => {
            assert_eq!(layer, "base");
            block
        }
        LayerError::Io { .. } => None,
    }
}

const BLOCK: u64 = BLOCK_BYTES as u64;

#[test]
fn whole_layers_pass() {
    for blocks in [1, 2, 128, 129, 300, 128 * 128 + 1] {
        let files = files(blocks);
        check(&files.layer, Depth::Quick).unwrap();
        check(&files.layer, Depth::Full).unwrap();
        assert!(bad_ranges(&files.layer, 64 << 10).unwrap().is_empty());
    }
}

#[test]
fn a_flipped_byte_is_named() {
    let files = files(300);
    flip(&files.layer.file, 200 * BLOCK + 9);
    // A quick check does not see it; the kernel will.
    check(&files.layer, Depth::Quick).unwrap();
    let error = check(&files.layer, Depth::Full).unwrap_err();
    assert_eq!(error.to_string(), "layer base is damaged: block 200 is not what its hash says");
    assert_eq!(block_of(error), Some(BadBlock::Data(200)));
    flip(&files.layer.file, 207 * BLOCK);
    flip(&files.layer.file, 299 * BLOCK);
    // 64 KiB are 16 blocks: 200 and 207 lie in range 12, 299 in range 18.
    assert_eq!(bad_ranges(&files.layer, 64 << 10).unwrap(), [12, 18]);
}

#[test]
fn the_superblock_and_the_trees_top_are_always_checked() {
    let one = files(300);
    flip(&one.layer.file, 1024);
    assert_eq!(block_of(check(&one.layer, Depth::Quick).unwrap_err()), Some(BadBlock::Data(0)));
    let two = files(300);
    flip(&two.layer.tree, 0);
    assert_eq!(block_of(check(&two.layer, Depth::Quick).unwrap_err()), Some(BadBlock::Tree(0)));
    assert!(bad_ranges(&two.layer, 64 << 10).is_err());
    // The image is whole: the tree can be made again.
    rebuild_tree(&two.layer).unwrap();
    check(&two.layer, Depth::Full).unwrap();
    let three = files(300);
    let wrong = Layer { root_hash: Sha256Digest::of(b"x"), ..three.layer.clone() };
    assert_eq!(block_of(check(&wrong, Depth::Quick).unwrap_err()), Some(BadBlock::Tree(0)));
    assert!(rebuild_tree(&wrong).is_err());
    check(&three.layer, Depth::Full).unwrap();
}

#[test]
fn missing_short_and_foreign_files() {
    let files = files(4);
    let image = fs::read(&files.layer.file).unwrap();
    fs::write(&files.layer.file, &image[..image.len() - 1]).unwrap();
    assert!(
        check(&files.layer, Depth::Quick).unwrap_err().to_string().contains("16383 bytes instead of 16384")
    );
    fs::remove_file(&files.layer.tree).unwrap();
    fs::write(&files.layer.file, &image).unwrap();
    let error = check(&files.layer, Depth::Quick).unwrap_err();
    assert!(error.to_string().contains("is missing") && error.code() == Some("layer-corrupt"), "{error}");
    rebuild_tree(&files.layer).unwrap();
    check(&files.layer, Depth::Quick).unwrap();
    assert_eq!(fs::read_dir(files.dir.path()).unwrap().count(), 2);
}

#[test]
fn the_table_is_the_kernels() {
    let files = files(2);
    let target = attach::table(&files.layer, Path::new("/dev/loop1"), Path::new("/dev/loop2"));
    let salt = "07".repeat(32);
    assert_eq!(target.sectors, 16);
    assert_eq!(
        target.parameters,
        format!("1 /dev/loop1 /dev/loop2 4096 4096 2 0 sha256 {} {salt}", files.layer.root_hash)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_flipped_byte_is_found(at in 0_u64..40 * BLOCK, in_tree: bool) {
        let files = files(40);
        let (path, length) = if in_tree { (&files.layer.tree, BLOCK) } else { (&files.layer.file, 40 * BLOCK) };
        let at = at % length;
        flip(path, at);
        let expected = if in_tree { BadBlock::Tree(0) } else { BadBlock::Data(at / BLOCK) };
        prop_assert_eq!(block_of(check(&files.layer, Depth::Full).unwrap_err()), Some(expected));
    }
}

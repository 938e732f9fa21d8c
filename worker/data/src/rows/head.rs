//! What the first bytes of a file show of its form.

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const PARQUET: &[u8] = b"PAR1";
/// The mark of byte order of UTF-8.
pub(super) const MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(GZIP)
}

/// With a frame of data, or with one that is skipped, as programs put before theirs to say where the
/// others stand.
pub(super) fn is_zstd(start: &[u8]) -> bool {
    start.starts_with(ZSTD) || matches!(start, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

pub(super) fn is_parquet(start: &[u8]) -> bool {
    start.starts_with(PARQUET)
}

/// Whether rows may begin so: as an object or a list of JSON, as Parquet, or compressed.
pub(super) fn is_of_rows(start: &[u8]) -> bool {
    is_gzip(start) || is_zstd(start) || is_parquet(start) || is_json(start)
}

/// Whether an object or a list begins, and no template, section of settings or link.
fn is_json(start: &[u8]) -> bool {
    let text = start.strip_prefix(MARK).unwrap_or(start).trim_ascii_start();
    let Some((first, rest)) = text.split_first() else {
        return false;
    };
    let may_follow: &[u8] = match first {
        b'{' => b"\"}",
        b'[' => b"{[\"]",
        _ => return false,
    };
    let next = rest.trim_ascii_start().first();
    next.is_none_or(|next| may_follow.contains(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_told_from_other_files() {
        for start in [
            &b"{\"messages\""[..],
            b"\n  [",
            b"\xef\xbb\xbf{",
            b"\x1f\x8b\x08",
            b"\x28\xb5\x2f\xfd",
            b"\x5f\x2a\x4d\x18\x04",
            b"PAR1",
        ] {
            assert!(is_of_rows(start), "{start:?}");
        }
        for start in [
            &b""[..],
            b"# Rows",
            b"[![badge](a.svg)]",
            b"[section]",
            b"{% for m in messages %}",
            b"{{ bos_token }}",
            b"a,b",
            b"key: 1",
            b"\x4f\x2a\x4d\x18",
            b"PAR",
        ] {
            assert!(!is_of_rows(start), "{start:?}");
        }
    }
}

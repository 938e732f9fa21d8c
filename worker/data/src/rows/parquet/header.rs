//! The start of a page's header: how many bytes the page claims to have once it is unpacked.
//!
//! Headers are structures of a compact protocol that Parquet shares with others. Every writer puts
//! their fields in the order of their numbers, and the first three are the kind of the page and its
//! two sizes. The rest is the library's to read.

use std::io::{self, Read};

/// Bytes of a page once it is unpacked, at the most. Writers close a page at a few megabytes, or at
/// a hundred; a single value may be larger than that.
const MOST_BYTES: i64 = 512 << 20;

/// A field whose number is one above that of the field before it, and that is a number of 32 bits.
const NEXT_I32: u8 = 0x15;

/// Refuses a page of too many bytes, by the header that `read` begins with.
///
/// # Errors
/// The header claims too much, or does not begin as headers do.
pub(super) fn hold(read: &mut impl Read) -> io::Result<()> {
    let _kind = field(read)?;
    let unpacked = field(read)?;
    let _packed = field(read)?;
    if unpacked > MOST_BYTES {
        return Err(fault(&format!(
            "a page claims {unpacked} bytes; at most {MOST_BYTES} are read, so write the file with smaller pages, or as JSON lines"
        )));
    }
    Ok(())
}

/// The value of the next field.
fn field(read: &mut impl Read) -> io::Result<i64> {
    if byte(read)? != NEXT_I32 {
        return Err(fault("a page does not begin with its kind and its sizes"));
    }
    let mut digits = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let next = byte(read)?;
        digits |= u64::from(next & 0x7f) << shift;
        if next & 0x80 == 0 {
            // Small numbers of both signs have few digits: 0, -1, 1, -2.
            return Ok((digits >> 1) as i64 ^ -((digits & 1) as i64));
        }
    }
    Err(fault("a size of a page has too many digits"))
}

fn byte(read: &mut impl Read) -> io::Result<u8> {
    let mut one = [0];
    read.read_exact(&mut one)?;
    Ok(one[0])
}

fn fault(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(bytes: &[u8]) -> Option<String> {
        hold(&mut &bytes[..]).err().map(|e| e.to_string())
    }

    #[test]
    fn a_page_of_too_many_bytes_is_refused_and_others_are_not() {
        // A dictionary of 10 bytes, and one of 2^29 bytes.
        let (small, most) = ([0x15, 4, 0x15, 20, 0x15, 20], [0x80, 0x80, 0x80, 0x80, 4]);
        assert_eq!(told(&small), None);
        let page = |size: &[u8]| [&[0x15, 4, 0x15][..], size, &[0x15, 20]].concat();
        assert_eq!(told(&page(&most)), None);
        let fault = told(&page(&[0x82, 0x80, 0x80, 0x80, 4])).expect("a fault");
        assert!(
            fault.starts_with("a page claims 536870913 bytes"),
            "{fault}"
        );
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bytes in [&[0x25, 4, 0x15, 20][..], &[0x15; 3], &[0x15, 4], &[]] {
            assert!(told(bytes).is_some(), "{bytes:?}");
        }
        let endless = [&[0x15][..], &[0xff; 20]].concat();
        let fault = told(&endless).expect("a fault");
        assert!(fault.contains("too many digits"), "{fault}");
    }
}

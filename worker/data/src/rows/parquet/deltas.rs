//! Lengths of texts that are written as differences. Their count stands in the values themselves, and
//! a few bytes may truly stand for many equal lengths, so no size of a file bounds it.

/// Values of a page, at the most. Four bytes are taken for the length of each.
const MOST_VALUES: u64 = 1 << 26;

/// Refuses lengths at the start of `bytes` that are more than the `count` values of their page;
/// behind those that two neighboring texts share come, for `of_suffixes`, those of what is new.
pub(super) fn hold(bytes: &[u8], count: u64, of_suffixes: bool) -> Result<(), String> {
    // What is cut off is the library's to refuse: it reads these before it makes room.
    let Some((lengths, rest)) = Lengths::read(bytes) else {
        return Ok(());
    };
    let most = count.min(MOST_VALUES);
    if lengths.count > most {
        return Err(format!(
            "a page of {count} values claims the lengths of {}; at most {MOST_VALUES} are read",
            lengths.count
        ));
    }
    match lengths.behind(rest) {
        Some(rest) if of_suffixes => hold(rest, count, false),
        _ => Ok(()),
    }
}

/// What stands before lengths.
struct Lengths {
    of_block: u64,
    parts: u64,
    count: u64,
}

impl Lengths {
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (of_block, rest) = number(bytes)?;
        let (parts, rest) = number(rest)?;
        let (count, rest) = number(rest)?;
        let (_first, rest) = number(rest)?;
        let lengths = Self {
            of_block,
            parts,
            count,
        };
        Some((lengths, rest))
    }

    /// What stands behind the blocks of these lengths.
    fn behind<'a>(&self, mut rest: &'a [u8]) -> Option<&'a [u8]> {
        let of_part = self.of_block.checked_div(self.parts)?;
        if of_part == 0 {
            return None;
        }
        // The first has its place before the blocks.
        let mut left = self.count.saturating_sub(1);
        while left > 0 {
            let (_least, behind) = number(rest)?;
            let (widths, mut values) =
                behind.split_at_checked(usize::try_from(self.parts).ok()?)?;
            for width in widths {
                // Parts behind the last value have no bytes, whatever their width is said to be.
                if left > 0 {
                    let bytes = of_part.checked_mul(u64::from(*width))? / 8;
                    values = values.get(usize::try_from(bytes).ok()?..)?;
                }
                left = left.saturating_sub(of_part);
            }
            rest = values;
        }
        Some(rest)
    }
}

/// A number in digits of seven bits, the lowest first, and what stands behind it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let end = bytes.iter().take(10).position(|byte| byte & 0x80 == 0)?;
    let (digits, rest) = bytes.split_at_checked(end + 1)?;
    let value = digits
        .iter()
        .rev()
        .fold(0_u64, |value, digit| value << 7 | u64::from(digit & 0x7f));
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three equal lengths, in blocks of 128 with 4 parts.
    const EQUAL: [u8; 10] = [0x80, 1, 4, 3, 8, 0, 0, 0, 0, 0];
    /// A count of 2^35.
    const ENDLESS: [u8; 10] = [0x80, 1, 4, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 8];

    #[test]
    fn more_lengths_than_values_are_refused_wherever_they_stand() {
        assert_eq!(hold(&EQUAL, 3, false), Ok(()));
        assert_eq!(hold(&EQUAL, 3, true), Ok(()));
        let fault = hold(&ENDLESS, 3, false).expect_err("a fault");
        assert!(
            fault.contains("3 values claims the lengths of 34359738368"),
            "{fault}"
        );
        let both = [EQUAL, ENDLESS].concat();
        assert_eq!(hold(&both, 3, false), Ok(()));
        assert_eq!(hold(&both, 3, true), Err(fault));
        assert!(
            hold(&ENDLESS, u64::MAX, false).is_err(),
            "the most is the most"
        );
    }

    #[test]
    fn lengths_that_take_bytes_are_passed_over() {
        // Lengths of one bit in the first part, which takes four bytes.
        let packed = [0x80, 1, 4, 3, 8, 0, 1, 9, 9, 9, 7, 7, 7, 7];
        let both = [&packed[..], &ENDLESS].concat();
        assert!(hold(&both, 3, true).is_err());
        assert_eq!(hold(&packed[..12], 3, true), Ok(()), "what is cut off");
    }
}

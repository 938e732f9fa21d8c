use super::*;

#[test]
fn comparisons_become_filters_and_the_rest_stays() {
    for (block, source, wanted) in [
        (false, " a < b ", " ((a) | _lt((b))) "),
        (
            false,
            "- a.b[0] + 1 >= c | length -",
            "- ((a.b[0] + 1) | _ge((c | length))) -",
        ),
        (
            false,
            " 1 < 2 <= x ",
            " ((1) | _chain('<', (2), '<=', (x))) ",
        ),
        (
            false,
            " 1 < 2 == true ",
            " ((1) | _chain('<', (2), '==', (true))) ",
        ),
        (
            false,
            " 1 in x  not  in y",
            " ((1) | _chain('in', (x), 'not in', (y)))",
        ),
        (false, " not not x in y ", " not not ((x) | _in((y))) "),
        (false, " a == b != c ", " a == b != c "),
        (
            false,
            " f(a < b, k=c > d)[x in y:] ",
            " f(((a) | _lt((b))), k=((c) | _gt((d))))[((x) | _in((y))):] ",
        ),
        (false, " 'a < b' ~ \"in\" ", " 'a < b' ~ \"in\" "),
        (
            false,
            " x is in y and x is not in y ",
            " x is in y and x is not in y ",
        ),
        (false, " not a  not  in b ", " not (not ((a) | _in((b)))) "),
        (false, " x.in ~ x.not ~ index ", " x.in ~ x.not ~ index "),
        (
            true,
            " if a in b or not c<d ",
            " if ((a) | _in((b))) or not ((c) | _lt((d))) ",
        ),
        (
            true,
            "- for a, b in c if a in d -",
            "- for a, b in c if ((a) | _in((d))) -",
        ),
        (
            true,
            " set x = a > 1 if y else z",
            " set x = ((a) | _gt((1))) if y else z",
        ),
    ] {
        assert_eq!(rewrite(source, block), wanted);
    }
}

#[test]
fn what_is_nested_however_deep_grows_no_more_than_it_is_long() {
    let nested = |levels: usize, from: &str, to: &str| {
        format!("{}1{}", from.repeat(levels), to.repeat(levels))
    };
    for source in [
        nested(100, "0 < (", ") < 3"),
        nested(100_000, "(", ")"),
        nested(100_000, "[0 < ", "]"),
    ] {
        assert!(rewrite(&source, false).len() < 16 * source.len());
    }
}

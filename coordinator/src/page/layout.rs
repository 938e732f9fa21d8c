//! The frame of every page.

use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");

/// A whole page around `body`.
pub fn page(title: &str, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · qlora" }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { a href="/" { "qlora" } a .dim href="/sessions" { "Sessions" } span #live role="status" aria-live="off" {} }
                main #main { (body) }
                script { (PreEscaped(SCRIPT)) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pixels of the smallest text that is easily read on a telephone.
    const READABLE: f32 = 12.0;
    /// Pixels of `rem`, which no rule changes.
    const REM: f32 = 16.0;

    /// What a size of the style comes to in pixels.
    fn pixels(size: &str) -> f32 {
        let number = |unit: &str| size.strip_suffix(unit)?.parse::<f32>().ok();
        let pixels = number("px").or_else(|| Some(number("rem")? * REM));
        pixels.unwrap_or_else(|| panic!("{size} is in neither px nor rem"))
    }

    /// A narrow screen changes no size of a text: the viewport has the width of the device, and
    /// what is drawn to scale holds no text.
    #[test]
    fn texts_have_a_readable_size_on_the_narrowest_screens() {
        let sizes: Vec<&str> = STYLE
            .split("font-size:")
            .skip(1)
            .filter_map(|rest| rest.split([';', '}']).next())
            .map(str::trim)
            .collect();
        assert!(sizes.len() >= 4, "only {sizes:?} are seen");
        for size in sizes {
            assert!(pixels(size) >= READABLE, "{size}");
        }
        assert!(!STYLE.contains("zoom:") && !STYLE.contains("scale("));
        let page = page("x", &html! {}).into_string();
        assert!(page.contains("width=device-width, initial-scale=1"));
    }
}

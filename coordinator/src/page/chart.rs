//! The loss curve as SVG: the mean of each bucket, and a band from its smallest to its largest
//! value.

use maud::{Markup, html};
use qlora_proto::words::count;

use super::curve::{Bucket, Curve};

/// The drawing is stretched to its place, so nothing that must keep its form, such as text, stands
/// in it.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 240.0;

/// Training loss, and held-out loss where there is one.
pub fn loss(curve: &Curve) -> Markup {
    let (train, evals) = (&curve.train, &curve.held_out);
    let not_finite = train.not_finite + evals.not_finite;
    let all = || train.buckets.iter().chain(&evals.buckets);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), b| {
        (l.min(b.low), h.max(b.high))
    });
    if train.points() + evals.points() < 2 || !low.is_finite() {
        return html! {
            p .dim { "The curve appears with the first steps." @if not_finite > 0 { " " (count(not_finite as u64, "point")) " NaN or infinite." } }
        };
    }
    let steps = all().map(|b| b.step).fold(1.0, f64::max);
    let x = |step: f64| step / steps * WIDTH;
    let y = |v: f64| HEIGHT - (v - low) / (high - low).max(1e-9) * HEIGHT;
    let line = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        points
            .map(|(s, v)| format!("{:.1},{:.1}", x(s), y(v)))
            .collect::<Vec<_>>()
            .join(" ")
    };
    let means = |buckets: &[Bucket]| line(&mut buckets.iter().map(|b| (b.step, b.mean())));
    let (curve, held) = (means(&train.buckets), means(&evals.buckets));
    let lows = train.buckets.iter().rev().map(|b| (b.step, b.low));
    let band = line(&mut train.buckets.iter().map(|b| (b.step, b.high)).chain(lows));
    let ticks = [1.0, 0.5, 0.0].map(|share| low + (high - low) * share);
    html! {
        div .chart {
            div .ticks { @for tick in ticks { span { (format!("{tick:.2}")) } } }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label="loss by step" {
                @for tick in ticks { line x1="0" x2=(WIDTH) y1=(y(tick)) y2=(y(tick)) {} }
                polygon .band points=(band) {}
                polyline .curve points=(curve) {}
                polyline .evals points=(held) {}
            }
            span {}
            div .steps { span { "step 0" } span { "step " (steps) } }
        }
        p .legend {
            @if !train.buckets.is_empty() { span { i .curve {} "training loss" } }
            @if !evals.buckets.is_empty() { span { i .evals {} "held-out loss" } }
            @if train.width > 1 { span { i .band {} "lowest to highest of up to " (train.width) " steps; the line is their mean" } }
            @if not_finite > 0 { span { (count(not_finite as u64, "point")) " NaN or infinite" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use qlora_store::MetricRecord;

    use super::*;

    /// A chart of `losses`, from step 1 on.
    fn chart(losses: impl Iterator<Item = f64>) -> String {
        let point = |(seq, loss)| MetricRecord {
            seq,
            step: seq,
            unix_ms: 0,
            values: [("loss".to_owned(), loss)].into(),
        };
        let mut curve = Curve::default();
        curve.extend(&(1..).zip(losses).map(point).collect::<Vec<_>>());
        loss(&curve).into_string()
    }

    #[test]
    fn points_that_are_not_finite_are_counted_and_move_nothing() {
        let value = |i: u64| match i {
            3 => f64::NAN,
            5 => f64::INFINITY,
            _ => 2.0 + i as f64,
        };
        let text = chart((1..10).map(value));
        assert!(
            text.contains("training loss") && text.contains("2 points NaN or infinite"),
            "{text}"
        );
        assert!(
            !text.contains("lowest to highest"),
            "no points were merged: {text}"
        );
        assert!(
            !text.contains("NaN,") && !text.contains(",NaN") && !text.contains(",inf"),
            "{text}"
        );
    }

    /// The drawing is as narrow as the screen, and with it whatever stands in it.
    #[test]
    fn labels_stand_beside_the_drawing_and_not_in_it() {
        let text = chart((1..10).map(f64::from));
        let (before, rest) = text.split_once("<svg").expect("a drawing");
        let (drawn, after) = rest.split_once("</svg>").expect("its end");
        assert!(!drawn.contains("<text"), "{drawn}");
        assert!(
            before.contains("9.00") && after.contains("step 9"),
            "{text}"
        );
    }

    #[test]
    fn the_band_is_explained_where_points_are_merged() {
        assert!(!chart((1..=1000).map(f64::from)).contains("lowest to highest"));
        for (points, width) in [(1001, 2), (2000, 2), (2001, 4)] {
            let text = chart((1..=points).map(f64::from));
            assert!(
                text.contains(&format!("lowest to highest of up to {width} steps")),
                "{text}"
            );
        }
    }
}

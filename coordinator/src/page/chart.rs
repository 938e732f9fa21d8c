//! The loss curve as SVG: a bucket a pixel, each with its mean, its smallest and its largest value.

use maud::{Markup, html};
use qlora_proto::words::count;
use qlora_store::MetricRecord;

/// The drawing is stretched to its place, so nothing that must keep its form, such as text, stands in it.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 240.0;
const BUCKETS: usize = 500;

/// Values of neighbouring steps.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Bucket {
    step: f64,
    low: f64,
    high: f64,
    mean: f64,
}

fn series(metrics: &[MetricRecord], name: &str) -> impl Iterator<Item = (f64, f64)> {
    metrics.iter().filter_map(move |m| Some((m.step as f64, *m.values.get(name)?)))
}

/// Points that can be drawn, and how many cannot because they are not finite.
fn drawable(metrics: &[MetricRecord], name: &str) -> (Vec<(f64, f64)>, usize) {
    let (points, not): (Vec<_>, Vec<_>) = series(metrics, name).partition(|(_, value)| value.is_finite());
    (points, not.len())
}

/// Keeps the extremes of every bucket, so that no spike is lost.
fn buckets(points: &[(f64, f64)]) -> Vec<Bucket> {
    let width = points.len().div_ceil(BUCKETS).max(1);
    let bucket = |chunk: &[(f64, f64)]| {
        let values = chunk.iter().map(|p| p.1);
        Bucket {
            step: chunk[chunk.len() / 2].0,
            low: values.clone().fold(f64::INFINITY, f64::min),
            high: values.clone().fold(f64::NEG_INFINITY, f64::max),
            mean: values.sum::<f64>() / chunk.len() as f64,
        }
    };
    points.chunks(width).map(bucket).collect()
}

/// Training loss, and held-out loss where there is one.
pub fn loss(metrics: &[MetricRecord]) -> Markup {
    let (train, not_finite) = drawable(metrics, "loss");
    let (evals, evals_not_finite) = drawable(metrics, "eval_loss");
    let not_finite = not_finite + evals_not_finite;
    let values = train.iter().chain(&evals).map(|p| p.1);
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if train.len() + evals.len() < 2 || !low.is_finite() {
        return html! {
            p .dim { "The curve appears with the first steps." @if not_finite > 0 { " " (count(not_finite as u64, "point")) " NaN or infinite." } }
        };
    }
    let steps = train.iter().chain(&evals).map(|p| p.0).fold(1.0, f64::max);
    let x = |step: f64| step / steps * WIDTH;
    let y = |v: f64| HEIGHT - (v - low) / (high - low).max(1e-9) * HEIGHT;
    let all = buckets(&train);
    let line = |points: &mut dyn Iterator<Item = (f64, f64)>| {
        points.map(|(s, v)| format!("{:.1},{:.1}", x(s), y(v))).collect::<Vec<_>>().join(" ")
    };
    let curve = line(&mut all.iter().map(|b| (b.step, b.mean)));
    let band = line(&mut all.iter().map(|b| (b.step, b.high)).chain(all.iter().rev().map(|b| (b.step, b.low))));
    let held = line(&mut evals.iter().copied());
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
            @if !train.is_empty() { span { i .curve {} "training loss" } }
            @if !evals.is_empty() { span { i .evals {} "held-out loss" } }
            @if all.len() < train.len() { span { i .band {} "lowest to highest of up to " (train.len().div_ceil(BUCKETS)) " steps; the line is their mean" } }
            @if not_finite > 0 { span { (count(not_finite as u64, "point")) " NaN or infinite" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_that_are_not_finite_are_counted_and_move_nothing() {
        let value = |i: u64| match i {
            3 => f64::NAN,
            5 => f64::INFINITY,
            _ => 2.0 + i as f64,
        };
        let point = |i| MetricRecord { seq: i, step: i, unix_ms: 0, values: [("loss".to_owned(), value(i))].into() };
        let text = loss(&(1..10).map(point).collect::<Vec<_>>()).into_string();
        assert!(text.contains("training loss") && text.contains("2 points NaN or infinite"), "{text}");
        assert!(!text.contains("lowest to highest"), "no points were merged: {text}");
        assert!(!text.contains("NaN,") && !text.contains(",NaN") && !text.contains(",inf"), "{text}");
    }

    #[test]
    fn the_band_is_explained_where_points_are_merged() {
        let point = |i| MetricRecord { seq: i, step: i, unix_ms: 0, values: [("loss".to_owned(), i as f64)].into() };
        let text = loss(&(1..=1001).map(point).collect::<Vec<_>>()).into_string();
        assert!(text.contains("lowest to highest of up to 3 steps"), "{text}");
    }

    #[test]
    fn one_spike_in_many_points_is_kept() {
        let points: Vec<_> = (0..10_000).map(|i| (f64::from(i), if i == 7321 { 9.0 } else { 1.0 })).collect();
        let all = buckets(&points);
        assert!(all.len() <= BUCKETS);
        assert_eq!(all.iter().map(|b| b.high).fold(0.0, f64::max), 9.0);
    }
}

//! When requests are to be sent: planned before the run, whatever the server does.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::random::Random;

/// How arrivals follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrivals {
    /// Independent of each other, as those of many machines are: exponentially distributed pauses.
    #[default]
    Poisson,
    /// One after the other in equal steps.
    Constant,
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "poisson" => Ok(Self::Poisson),
            "constant" => Ok(Self::Constant),
            _ => Err("arrivals are `poisson` or `constant`".to_owned()),
        }
    }
}

impl fmt::Display for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Poisson => "poisson",
            Self::Constant => "constant",
        })
    }
}

/// Arrivals at `rate` a second (above 0) until `length`, as times since the beginning, ascending. They are made one by one,
/// so that a long plan takes no memory, and depend on the seed alone. A rate that is no positive number plans nothing.
pub fn plan(
    arrivals: Arrivals,
    rate: f64,
    length: Duration,
    seed: u64,
) -> impl Iterator<Item = Duration> + Send {
    let mut random = Random::new(seed, 0x5c4e_d01e);
    let mut at = 0.0_f64;
    let end = length.as_secs_f64();
    let mut count = 0.0_f64;
    let possible = rate > 0.0 && rate.is_finite();
    std::iter::from_fn(move || {
        if !possible {
            return None;
        }
        match arrivals {
            // 1 - unit() is never 0, so the logarithm is finite.
            Arrivals::Poisson => at += -(1.0 - random.unit()).ln() / rate,
            // By multiplication: a sum of steps drifts.
            Arrivals::Constant => {
                at = count / rate;
                count += 1.0;
            }
        }
        (at < end).then(|| Duration::from_secs_f64(at))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constant_arrivals_do_not_drift() {
        let times: Vec<_> = plan(Arrivals::Constant, 3.0, Duration::from_secs(100_000), 1).collect();
        assert_eq!(times.len(), 300_000);
        assert_eq!(times[299_997], Duration::from_secs(99_999));
    }

    #[test]
    fn a_rate_that_is_none_plans_nothing() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            for arrivals in [Arrivals::Poisson, Arrivals::Constant] {
                assert_eq!(plan(arrivals, rate, Duration::from_secs(5), 1).take(9).count(), 0, "{rate}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn a_plan_ascends_ends_in_time_and_repeats(
            rate in 0.5f64..5000.0, seconds in 1u64..20, seed: u64, poisson: bool
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let length = Duration::from_secs(seconds);
            let first: Vec<_> = plan(arrivals, rate, length, seed).collect();
            proptest::prop_assert!(first.windows(2).all(|pair| pair[0] <= pair[1]));
            proptest::prop_assert!(first.iter().all(|at| *at < length));
            proptest::prop_assert_eq!(&first, &plan(arrivals, rate, length, seed).collect::<Vec<_>>());
        }

        /// Mean and spread of a Poisson process: the number of arrivals has mean and variance rate × time.
        #[test]
        fn poisson_arrivals_are_as_many_as_asked_for(rate in 50.0f64..2000.0, seed: u64) {
            let count = plan(Arrivals::Poisson, rate, Duration::from_secs(20), seed).count() as f64;
            let mean = rate * 20.0;
            proptest::prop_assert!((count - mean).abs() < 6.0 * mean.sqrt(), "{count} instead of {mean}");
        }
    }

    /// Pauses of a Poisson process are exponentially distributed: 1/e of them are longer than the mean.
    #[test]
    fn poisson_pauses_are_exponential() {
        let times: Vec<_> = plan(Arrivals::Poisson, 1000.0, Duration::from_secs(100), 7).collect();
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(1)).count();
        let share = long as f64 / times.len() as f64;
        assert!((share - (-1.0f64).exp()).abs() < 0.01, "{share}");
    }
}

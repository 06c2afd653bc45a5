//! What the load balancers of a class cost.

use std::fmt;
use std::str::FromStr;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The prices of the load balancers of a class, without traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = (
        "has(self.preset) || has(self.basePerHour) || has(self.loadBalancerPerHour) || has(self.listenerPerHour)",
        "set a preset, or at least one price",
    ),
    validation = (
        "!has(self.preset) || !(has(self.basePerHour) || has(self.loadBalancerPerHour) || has(self.listenerPerHour) \
         || self.includedLoadBalancers > 0 || self.includedListeners > 0)",
        "a preset has all prices: leave the others out, or leave preset out and set them all",
    ),
    validation = (
        "!has(self.preset) || self.currency == 'USD'",
        "the prices of presets are in US dollars: leave currency out, or leave preset out and set the prices",
    )
)]
pub struct Pricing {
    /// A price list. Prices differ by region and change: check them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PricingPreset")]
    pub preset: Option<PricingPreset>,
    /// The currency, by its code of ISO 4217. Default: USD.
    #[serde(default = "default_currency")]
    #[schemars(regex(pattern = r"^[A-Z]{3}$"))]
    pub currency: String,
    /// The price of each hour in which there is a load balancer, such as
    /// "0.025", with at most six decimals. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"))]
    pub base_per_hour: Option<Price>,
    /// How many load balancers `basePerHour` includes, 0 to 1000. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub included_load_balancers: u32,
    /// The price of an hour of each further load balancer, such as "0.0225",
    /// with at most six decimals. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"))]
    pub load_balancer_per_hour: Option<Price>,
    /// How many listeners of all load balancers together `basePerHour`
    /// includes, 0 to 1000000. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub included_listeners: u32,
    /// The price of an hour of each further listener, such as "0.01", with at
    /// most six decimals. Default: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", regex(pattern = r"^[0-9]{1,6}(\.[0-9]{1,6})?$"))]
    pub listener_per_hour: Option<Price>,
}

/// A price list, without traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PricingPreset {
    /// Network Load Balancers of AWS in us-east-1: 0.0225 dollars an hour each.
    /// (Elastic Load Balancing pricing, 2025. NLCU-hours, and public
    /// IPv4 addresses, cost extra.)
    AwsNetworkLoadBalancer,
    /// Forwarding rules of Google Cloud: 0.025 dollars an hour for up to five,
    /// and 0.01 for each further one. (Cloud Load Balancing pricing,
    /// 2026. External addresses cost extra.)
    GcpForwardingRule,
}

/// An amount of money, in millionths of its currency. As a text it is a decimal number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Price(u64);

/// Why a text is no [`Price`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a price is a decimal number with up to six digits before the point and six behind it, such as \"0.0225\"")]
pub struct InvalidPrice;

/// The prices of a [`Pricing`], whether it has a preset or its own.
struct Tariff {
    base: Price,
    included_load_balancers: u32,
    load_balancer: Price,
    included_listeners: u32,
    listener: Price,
}

fn default_currency() -> String {
    "USD".to_owned()
}

impl Pricing {
    /// What so many load balancers, with so many listeners together, cost in an hour.
    #[must_use]
    pub fn hourly(&self, load_balancers: u32, listeners: u32) -> Price {
        if load_balancers == 0 {
            return Price::default();
        }
        let Tariff { base, included_load_balancers, load_balancer, included_listeners, listener } = self.tariff();
        base.plus(load_balancer.times(load_balancers.saturating_sub(included_load_balancers)))
            .plus(listener.times(listeners.saturating_sub(included_listeners)))
    }

    fn tariff(&self) -> Tariff {
        let none = Tariff {
            base: Price(0),
            included_load_balancers: 0,
            load_balancer: Price(0),
            included_listeners: 0,
            listener: Price(0),
        };
        match self.preset {
            Some(PricingPreset::AwsNetworkLoadBalancer) => Tariff { load_balancer: Price(22_500), ..none },
            Some(PricingPreset::GcpForwardingRule) => {
                Tariff { base: Price(25_000), included_load_balancers: 5, load_balancer: Price(10_000), ..none }
            }
            None => Tariff {
                base: self.base_per_hour.unwrap_or_default(),
                included_load_balancers: self.included_load_balancers,
                load_balancer: self.load_balancer_per_hour.unwrap_or_default(),
                included_listeners: self.included_listeners,
                listener: self.listener_per_hour.unwrap_or_default(),
            },
        }
    }
}

impl Price {
    const ONE: u64 = 1_000_000;

    /// The sum of two amounts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference of two amounts; `None`: the other one is greater.
    #[must_use]
    pub fn minus(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// So many times the amount.
    #[must_use]
    pub fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(count.into()))
    }

    /// `part` of `whole` shares of the amount, rounded down to a millionth; of no shares, nothing.
    #[must_use]
    pub fn share(self, part: u32, whole: u32) -> Self {
        if whole == 0 {
            return Self::default();
        }
        let share = u128::from(self.0) * u128::from(part) / u128::from(whole);
        Self(u64::try_from(share).unwrap_or(u64::MAX))
    }

    /// The amount in whole hundredths, half of one rounded up.
    #[must_use]
    pub fn rounded(self) -> Self {
        const HUNDREDTH: u64 = Price::ONE / 100;
        Self(self.0.saturating_add(HUNDREDTH / 2) / HUNDREDTH * HUNDREDTH)
    }

    /// The number, as far as a floating-point number is exact.
    #[must_use]
    #[allow(clippy::cast_precision_loss, reason = "amounts beyond 2^53 millionths need no exact number")]
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / Self::ONE as f64
    }
}

impl fmt::Display for Price {
    /// With two decimals at least, and no zeros behind these.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % Self::ONE);
        let short = decimals.trim_end_matches('0');
        write!(f, "{}.{short:0<2}", self.0 / Self::ONE)
    }
}

impl FromStr for Price {
    type Err = InvalidPrice;

    fn from_str(text: &str) -> Result<Self, InvalidPrice> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let is_number =
            |digits: &str| matches!(digits.len(), 1..=6) && digits.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(whole) || !is_number(decimals) {
            return Err(InvalidPrice);
        }
        let number = |digits: &str| digits.parse::<u64>().map_err(|_| InvalidPrice);
        Ok(Self(number(whole)? * Self::ONE + number(&format!("{decimals:0<6}"))?))
    }
}

impl TryFrom<String> for Price {
    type Error = InvalidPrice;

    fn try_from(text: String) -> Result<Self, InvalidPrice> {
        text.parse()
    }
}

impl From<Price> for String {
    fn from(price: Price) -> Self {
        price.to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pricing(value: Value) -> Pricing {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_price_is_a_decimal_number() {
        for (text, shown) in [("0.0225", "0.0225"), ("7", "7.00"), ("1.5", "1.50"), ("999999.999999", "999999.999999")]
        {
            assert_eq!(text.parse::<Price>().unwrap().to_string(), shown);
        }
        for text in ["", ".5", "5.", "-1", "1e3", "1,5", "0.0000001", "1000000", "١"] {
            assert_eq!(text.parse::<Price>(), Err(InvalidPrice), "{text}");
        }
    }

    #[test]
    fn what_is_beyond_the_included_costs_extra() {
        let own = pricing(json!({
            "basePerHour": "1", "includedLoadBalancers": 2, "loadBalancerPerHour": "0.1",
            "includedListeners": 5, "listenerPerHour": "0.01",
        }));
        for (load_balancers, listeners, cost) in [(0, 0, "0.00"), (1, 0, "1.00"), (2, 5, "1.00"), (4, 8, "1.23")] {
            assert_eq!(own.hourly(load_balancers, listeners).to_string(), cost);
        }
    }

    #[test]
    fn half_a_hundredth_is_rounded_up() {
        for (exact, rounded) in [("16.425", "16.43"), ("16.424999", "16.42"), ("0.005", "0.01")] {
            assert_eq!(exact.parse::<Price>().unwrap().rounded().to_string(), rounded);
        }
    }

    /// 200 ports for a month of 730 hours, as docs/provider-gcp.md has it.
    #[test]
    fn presets_have_the_prices_of_their_lists() {
        let month = |preset: &str, load_balancers| {
            pricing(json!({ "preset": preset })).hourly(load_balancers, 200).times(730).to_string()
        };
        assert_eq!(month("AwsNetworkLoadBalancer", 4), "65.70");
        assert_eq!(month("GcpForwardingRule", 1), "18.25");
        assert_eq!(month("GcpForwardingRule", 200), "1441.75");
    }

    #[test]
    fn shares_of_an_amount_are_no_more_than_the_amount() {
        let whole: Price = "10".parse().unwrap();
        let third = whole.share(1, 3);
        assert!(third.times(3) <= whole && third.times(3) > "9.9999".parse().unwrap());
        assert_eq!(whole.share(1, 0), Price::default());
    }
}

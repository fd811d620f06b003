//! `Shop`: what customers of a small tea shop do, one event after the other. Pure but for the chance it is handed.

use std::collections::VecDeque;

use aquifer_storage::clock::Random;
use serde_json::{Value, json};

use super::catalog::{ORDERS, PAGE_VIEWS, USERS};

const CUSTOMERS: [(&str, &str); 12] = [
    ("Ada", "GB"),
    ("Bao", "VN"),
    ("Chidi", "NG"),
    ("Dana", "IL"),
    ("Emil", "DK"),
    ("Fatima", "MA"),
    ("Goran", "HR"),
    ("Hana", "JP"),
    ("Ines", "PT"),
    ("Jonas", "DE"),
    ("Kavya", "IN"),
    ("Lucía", "MX"),
];

const PRODUCTS: [(&str, f64); 6] = [
    ("assam", 6.50),
    ("darjeeling", 9.90),
    ("sencha", 12.00),
    ("oolong", 14.25),
    ("gyokuro", 24.80),
    ("teapot", 39.00),
];

/// Where customers move to now and then.
const COUNTRIES: [&str; 5] = ["FR", "IT", "BR", "KE", "NZ"];

/// Of a hundred events this many are orders; one is a move, the rest are page views.
const ORDERS_PERCENT: u64 = 15;
const MOVES_PERCENT: u64 = 1;

/// One record to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) topic: &'static str,
    pub(super) key: String,
    pub(super) value: Value,
}

/// The shop's memory: what each event follows from.
#[derive(Debug, Default)]
pub(super) struct Shop {
    orders: u64,
    /// The order that a page view leads to comes a little later.
    planned: VecDeque<Event>,
}

impl Shop {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// The customers as they are when the shop opens.
    pub(super) fn open(&self, random: &dyn Random) -> Vec<Event> {
        let event = |(index, (name, country)): (usize, &(&str, &str))| user(index, name, country);
        let mut events: Vec<_> = CUSTOMERS.iter().enumerate().map(event).collect();
        // Who comes first differs from day to day.
        events.rotate_left(below(random, CUSTOMERS.len()));
        events
    }

    /// What happens next.
    pub(super) fn next_event(&mut self, random: &dyn Random) -> Event {
        if let Some(event) = self.planned.pop_front() {
            return event;
        }
        // Some customers come more often: the smaller of two throws.
        let customer = below(random, CUSTOMERS.len()).min(below(random, CUSTOMERS.len()));
        match random.next_u64() % 100 {
            chance if chance < MOVES_PERCENT => {
                user(customer, CUSTOMERS[customer].0, COUNTRIES[below(random, COUNTRIES.len())])
            }
            chance if chance < MOVES_PERCENT + ORDERS_PERCENT => {
                let product = below(random, PRODUCTS.len());
                let order = self.order(customer, product, random);
                self.planned.push_back(order);
                page_view(customer, &format!("/products/{}", PRODUCTS[product].0), random)
            }
            _ => {
                let page = match below(random, PRODUCTS.len() + 2) {
                    0 => "/".to_owned(),
                    1 => "/basket".to_owned(),
                    product => format!("/products/{}", PRODUCTS[product - 2].0),
                };
                page_view(customer, &page, random)
            }
        }
    }

    fn order(&mut self, customer: usize, product: usize, random: &dyn Random) -> Event {
        self.orders += 1;
        let (name, price) = PRODUCTS[product];
        let quantity = u32::try_from(1 + random.next_u64() % 4).unwrap_or(1);
        // Whole cents: prices have two decimals, their float products do not always.
        let amount = (price * f64::from(quantity) * 100.0).round() / 100.0;
        let order_id = format!("{:08x}-{}", random.next_u64() >> 32, self.orders);
        let value = json!({ "order_id": order_id, "product": name, "quantity": quantity, "amount": amount });
        Event { topic: ORDERS, key: customer_id(customer), value }
    }
}

fn page_view(customer: usize, page: &str, random: &dyn Random) -> Event {
    let duration_ms = 200 + random.next_u64() % 30_000;
    Event { topic: PAGE_VIEWS, key: customer_id(customer), value: json!({ "page": page, "duration_ms": duration_ms }) }
}

fn user(customer: usize, name: &str, country: &str) -> Event {
    Event { topic: USERS, key: customer_id(customer), value: json!({ "name": name, "country": country }) }
}

fn customer_id(customer: usize) -> String {
    format!("user-{}", customer + 1)
}

/// A number below `end`, which is small against 2^64.
fn below(random: &dyn Random, end: usize) -> usize {
    usize::try_from(random.next_u64() % end as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Chance that repeats: a linear congruence.
    #[derive(Debug)]
    struct Repeated(AtomicU64);

    impl Random for Repeated {
        fn next_u64(&self) -> u64 {
            let next =
                |state: u64| state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            next(self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |state| Some(next(state))).unwrap_or(0)) >> 16
        }
    }

    #[test]
    fn customers_look_order_and_move() {
        let random = Repeated(AtomicU64::new(7));
        let mut shop = Shop::new();
        assert_eq!(shop.open(&random).len(), CUSTOMERS.len());
        let events: Vec<_> = (0..2_000).map(|_| shop.next_event(&random)).collect();
        let count = |topic: &str| events.iter().filter(|event| event.topic == topic).count();
        assert_eq!(count(PAGE_VIEWS) + count(ORDERS) + count(USERS), 2_000);
        assert!(count(PAGE_VIEWS) > count(ORDERS) && count(ORDERS) > count(USERS) && count(USERS) > 0);
        for order in events.iter().filter(|event| event.topic == ORDERS) {
            let cents = order.value["amount"].as_f64().unwrap() * 100.0;
            assert!((cents - cents.round()).abs() < 1e-6, "{order:?}");
        }
    }
}

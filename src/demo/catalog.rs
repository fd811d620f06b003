//! What the shop declares, and the commands that a newcomer can try on it.

use aquifer_server::BoundAddresses;
use aquifer_sql::engine::{Engine, SessionOptions};
use aquifer_sql::error::{Result, SqlState};

pub(super) const PAGE_VIEWS: &str = "page-views";
pub(super) const ORDERS: &str = "orders";
pub(super) const USERS: &str = "users";

/// The topics the shop writes.
pub(super) const TOPICS: [&str; 3] = [PAGE_VIEWS, ORDERS, USERS];

/// Two streams, one table, two continuous queries.
const STATEMENTS: [&str; 5] = [
    "CREATE STREAM page_views (user_id STRING KEY, page STRING, duration_ms INT) \
     WITH (kafka_topic = 'page-views', value_format = 'json', partitions = 3)",
    "CREATE STREAM orders (user_id STRING KEY, order_id STRING, product STRING, quantity INT, amount DOUBLE) \
     WITH (kafka_topic = 'orders', value_format = 'json', partitions = 3)",
    "CREATE TABLE users (user_id STRING PRIMARY KEY, name STRING, country STRING) \
     WITH (kafka_topic = 'users', value_format = 'json', partitions = 3)",
    "CREATE TABLE views_per_page AS SELECT page, count(*) AS views, avg(duration_ms) AS avg_duration_ms \
     FROM page_views WINDOW TUMBLING (SIZE 1 MINUTE) GROUP BY page EMIT CHANGES",
    "CREATE TABLE spending AS SELECT user_id, count(*) AS orders, sum(amount) AS total, max(amount) AS largest \
     FROM orders GROUP BY user_id EMIT CHANGES",
];

/// Declares what is not declared yet: the demo may be started again on the same directory.
pub(super) async fn declare(engine: &Engine) -> Result<()> {
    let who = SessionOptions {
        user: "shop".to_owned(),
        database: "aquifer".to_owned(),
        application_name: "aquifer demo".to_owned(),
        ..SessionOptions::default()
    };
    let mut session = engine.session(who);
    for text in STATEMENTS {
        for statement in session.parse(text)? {
            let outcome = match session.prepare(&statement, &[]).await {
                Ok(prepared) => session.execute(&prepared, Vec::new()).await.map(drop),
                Err(error) => Err(error),
            };
            match outcome {
                Err(error) if error.state == SqlState::DuplicateTable => {}
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

/// What to try, with the ports of this node.
pub(super) fn invitation(addresses: &BoundAddresses) -> String {
    let psql = format!("psql -h localhost -p {} -d aquifer -c", addresses.postgres.port());
    let kcat = format!("kcat -b localhost:{}", addresses.kafka.port());
    format!(
        "
The shop is open. In another terminal:

  {psql} 'SHOW STREAMS'
  {psql} 'SELECT * FROM page_views ORDER BY rowtime DESC LIMIT 5'
  {psql} 'SELECT u.name, u.country, s.orders, s.total FROM spending s JOIN users u ON u.user_id = s.user_id ORDER BY s.total DESC LIMIT 5'

The continuous tables move while you look:

  {psql} 'SELECT page, sum(views) AS views FROM views_per_page GROUP BY page ORDER BY views DESC'
  {psql} 'SELECT name, state, lag_records FROM aquifer.queries'

A query that does not end (COPY, because psql keeps a plain SELECT's rows until the last; end it with Ctrl-C):

  {psql} 'COPY (SELECT user_id, product, amount FROM orders EMIT CHANGES) TO STDOUT'

Every stream and table is a Kafka topic:

  {kcat} -L
  {kcat} -t orders -C -o end
  {kcat} -t spending -C -o beginning -e

Metrics: http://localhost:{http}/metrics
",
        http = addresses.http.port()
    )
}

"""Server-side cursors of psycopg: rows in portions, within a transaction and held beyond it."""

import sys

import psycopg

with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    connection.execute("CREATE STREAM numbers (n bigint)")
    connection.execute("INSERT INTO numbers SELECT * FROM generate_series(1, 25000)")

    # In a transaction, with a value of the program's, in portions, as text and binary.
    for binary in (False, True):
        with connection.transaction():
            with connection.cursor(name="portions", binary=binary) as cursor:
                cursor.itersize = 1000
                cursor.execute("SELECT n, n::text AS t FROM numbers WHERE n > %s ORDER BY n", (10,))
                assert [column.name for column in cursor.description] == ["n", "t"], cursor.description
                assert cursor.fetchone() == (11, "11")
                assert cursor.fetchmany(2) == [(12, "12"), (13, "13")]
                # What is written meanwhile is not in it.
                connection.execute("INSERT INTO numbers VALUES (99999)")
                rest = [n for n, _ in cursor]
                assert rest == list(range(14, 25001)), (len(rest), rest[:3], rest[-3:])
            raise psycopg.Rollback()

    # Held beyond its transaction.
    with connection.cursor(name="held", withhold=True) as cursor:
        cursor.execute("SELECT n FROM numbers ORDER BY n DESC")
        assert cursor.fetchmany(3) == [(25000,), (24999,), (24998,)]
        assert len(cursor.fetchall()) == 24997

    # One that is not held ends with its transaction.
    with connection.transaction():
        connection.execute("DECLARE short CURSOR FOR SELECT 1")
    try:
        connection.execute("FETCH ALL FROM short")
        raise AssertionError("it should be gone")
    except psycopg.errors.InvalidCursorName:
        pass
    try:
        connection.execute("DECLARE outside CURSOR FOR SELECT 1")
        raise AssertionError("it should be refused")
    except psycopg.errors.NoActiveSqlTransaction:
        pass

print("5 passed")

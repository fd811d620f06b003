"""COPY through psycopg, both ways and both formats, in a transaction as it opens one by itself."""

import sys

import psycopg

with psycopg.connect(sys.argv[1]) as connection:
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE items (id bigint, name text, price double precision)")
        with cursor.copy("COPY items (id, name, price) FROM STDIN") as copy:
            for number in range(1000):
                copy.write_row((number, f"item\t{number}\n" if number % 2 else None, number / 4))
        assert cursor.rowcount == 1000, cursor.rowcount
    connection.commit()

    with connection.cursor() as cursor:
        with cursor.copy("COPY (SELECT id, name FROM items ORDER BY id LIMIT 2) TO STDOUT") as copy:
            assert list(copy.rows()) == [("0", None), ("1", "item\t1\n")]
        with cursor.copy("COPY items (id) TO STDOUT (FORMAT csv, HEADER)") as copy:
            text = b"".join(copy).decode()
        assert text.splitlines()[0] == "id" and len(text.splitlines()) == 1001, text[:100]

    # A line that is malformed takes back all of it, and says where it is.
    try:
        with connection.cursor() as cursor:
            with cursor.copy("COPY items FROM STDIN (FORMAT csv)") as copy:
                copy.write("1,a,1\n2,b,x\n")
        raise AssertionError("it should fail")
    except psycopg.errors.InvalidTextRepresentation as error:
        assert error.diag.context == 'COPY items, line 2, column price: "x"', error.diag.context
    connection.rollback()

    # One that the program gives up too.
    try:
        with connection.cursor() as cursor:
            with cursor.copy("COPY items FROM STDIN") as copy:
                copy.write_row((1, "a", 1.5))
                raise ValueError("changed my mind")
    except ValueError:
        pass
    connection.rollback()
    assert connection.execute("SELECT count(*) FROM items").fetchone() == (1000,)

    # Many rows by one prepared statement.
    with connection.cursor() as cursor:
        rows = [(number, f"many {number}", None) for number in range(500)]
        cursor.executemany("INSERT INTO items VALUES (%s, %s, %s)", rows)
    connection.commit()
    assert connection.execute("SELECT count(*) FROM items WHERE name LIKE 'many%'").fetchone() == (500,)

print("6 passed")

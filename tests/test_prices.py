"""The price book's refresh: which rows of the Azure Retail Prices API it believes, and what it leaves alone."""

import json
import threading
import time
import tomllib
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from re import findall, search
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.errors import ConfigError
from planner import retail
from planner.prices import BOOK, read_prices
from planner.retail import RetailError, hourly_prices, read_book, refresh, reserved_prices, token_prices
from tests.commands import told

pytestmark = pytest.mark.aside

TODAY = date(2026, 12, 1)
OLD = date(2026, 1, 2)
BOOK_TEXT = """
currency = "USD"
note = "kept, though Headroom does not know it"
[serverless]
source = "a contract"
dated = 2026-01-02
[serverless.models]
"Phi-4" = { input_usd_per_1k = 1, output_usd_per_1k = 2.5 }
"Phi-3.5-MoE-Instruct" = { input_usd_per_1k = 3.0, output_usd_per_1k = 4.0 }
"Mistral \\"Nemo\\"" = { input_usd_per_1k = 0.00015, output_usd_per_1k = 0.00015 }
[managed]
source = "a quote"
dated = 2026-01-03
[managed.skus.Standard_A]
cores = 4
gpus = 1
exempt_from_reservation = true
usd_per_hour = { eastus = 2.0, westus = 3.0 }
[managed.skus.Standard_B]
cores = 8
gpus = 2
exempt_from_reservation = false
usd_per_hour = { eastus = 5.0 }
[managed.models]
"Phi-4" = ["Standard_A", "Standard_B"]
"""


def vm(sku="Standard_A", region="eastus", usd=4.0, **changes):
    """A row as the API documents it, for one hour of a Linux VM."""
    row = {
        "currencyCode": "USD", "tierMinimumUnits": 0.0, "retailPrice": usd, "unitPrice": usd, "armRegionName": region,
        "location": "US East", "effectiveStartDate": "2026-03-01T00:00:00Z", "meterId": "000a794b-bdb0-58be",
        "meterName": "A", "productId": "DZH318Z0BPVW", "skuId": "DZH318Z0BPVW/00QZ",
        "productName": "Virtual Machines NCSv3 Series", "skuName": "A", "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8", "serviceFamily": "Compute", "unitOfMeasure": "1 Hour", "type": "Consumption",
        "isPrimaryMeterRegion": True, "armSkuName": sku,
        "savingsPlan": [{"unitPrice": 1.0, "retailPrice": 1.0, "term": "3 Years"}],
    }  # fmt: skip
    return {**row, **changes}


def meter(name="Phi-4-Input Tokens", usd=0.1, region="eastus", **changes):
    names = {"meterName": name, "skuName": "Phi-4", "productName": "Azure Phi Models", "serviceName": "Foundry Models"}
    return vm("", region, usd, unitOfMeasure="1K", **names, **changes)


PHI_4 = (meter("Phi-4-Input Tokens", 0.1), meter("Phi-4-Output Tokens", 0.4))
TRAPS = [
    ("a Spot machine may be taken away", {"skuName": "A Spot", "meterName": "A Spot"}),
    ("a Spot machine, in the meter's name alone", {"meterName": "A Spot"}),
    ("a Low Priority machine may be taken away", {"skuName": "A Low Priority", "meterName": "A Low Priority"}),
    ("Windows has its licence in the price", {"productName": "Virtual Machines NCSv3 Series Windows"}),
    ("Cloud Services are another product", {"productName": "NCSv3 Series Cloud Services"}),
    ("and are also written as one word", {"productName": "NCSv3 Series CloudServices"}),
    ("a whole host is another product", {"productName": "NCSv3 Series Dedicated Host"}),
    ("DevTest prices are for subscribers", {"type": "DevTestConsumption"}),
    ("a reservation costs this for its term", {"type": "Reservation", "reservationTerm": "1 Year"}),
    ("a reservation that calls itself otherwise", {"reservationTerm": "3 Years"}),
    ("another unit", {"unitOfMeasure": "1 Day"}),
    ("another unit, almost", {"unitOfMeasure": "1 hour"}),
    ("another SKU", {"armSkuName": "Standard_A2"}),
    ("another spelling is another SKU", {"armSkuName": "standard_a"}),
    ("another region", {"armRegionName": "eastus2"}),
    ("not in force yet", {"effectiveStartDate": "2026-12-02T00:00:00Z"}),
    ("the price of a higher tier", {"tierMinimumUnits": 1000.0}),
    ("nothing is free", {"retailPrice": 0.0}),
    ("nothing costs less than nothing", {"retailPrice": -4.0}),
]


@pytest.mark.parametrize("changes", [row for _, row in TRAPS], ids=[claim for claim, _ in TRAPS])
def test_only_a_linux_machine_paid_as_it_goes_gives_the_hourly_price(changes):
    trap = {**vm(usd=0.5), **changes}
    assert hourly_prices([trap], "Standard_A", ["eastus"], TODAY) == {}
    for rows in ([trap, vm()], [vm(), trap]):
        assert hourly_prices(rows, "Standard_A", ["eastus"], TODAY) == {"eastus": 4.0}


def test_a_price_counts_from_its_own_day_and_in_its_own_region():
    rows = [vm(effectiveStartDate="2026-12-01T00:00:00Z"), vm(region="westus", usd=7)]
    assert hourly_prices(rows, "Standard_A", ["eastus", "westus"], TODAY) == {"eastus": 4.0, "westus": 7.0}


def reservation(usd=8_760.0, term="1 Year", **changes):
    return vm(usd=usd, **{"type": "Reservation", "reservationTerm": term, **changes})


@pytest.mark.parametrize(
    ("claim", "rows", "reserved"),
    [
        ("a year's price is that of 8,760 hours", [reservation(21_900.0)], {"1 Year": 2.5}),
        ("three years' that of 26,280", [reservation(26_280.0, "3 Years")], {"3 Years": 1.0}),
        ("each term has its own", [reservation(), reservation(13_140.0, "3 Years")], {"1 Year": 1.0, "3 Years": 0.5}),
        (
            "the largest machine for three years is above a million",
            [reservation(1_314_000.0, "3 Years")],
            {"3 Years": 50.0},
        ),
        ("pay as you go is no reservation", [vm()], {}),
        ("nor is it one for having a term", [vm(reservationTerm="1 Year")], {}),
        ("a term of other length has unknown hours", [reservation(term="1 Month")], {}),
        ("no term at all", [reservation(term=None)], {}),
        ("Windows", [reservation(productName="Virtual Machines NCSv3 Series Windows")], {}),
        ("Spot", [reservation(skuName="A Spot")], {}),
        ("another region", [reservation(armRegionName="westus")], {}),
        ("not in force yet", [reservation(effectiveStartDate="2026-12-02T00:00:00Z")], {}),
        ("nothing is free", [reservation(0.0)], {}),
        ("two prices are none", [reservation(8_760.0), reservation(9_000.0)], {}),
        ("the same price twice is one", [reservation(), reservation()], {"1 Year": 1.0}),
    ],
)
def test_a_reservations_price_is_its_terms_by_the_hour(claim, rows, reserved):
    found = reserved_prices([vm(), *rows], "Standard_A", ["eastus"], TODAY)
    assert found == ({"eastus": reserved} if reserved else {}), claim


def test_a_reservation_in_another_currency_is_no_price_list_of_ours():
    with pytest.raises(RetailError, match="Standard_A in eastus for 1 Year is listed in 'EUR'"):
        reserved_prices([reservation(currencyCode="EUR")], "Standard_A", ["eastus"], TODAY)


def test_reservations_are_refreshed_with_their_machine_and_kept_where_not_listed(book):
    rows = [vm(usd=2.25), vm("Standard_B", usd=5), *PHI_4]
    refreshed(book, [reservation(17_520.0), reservation(26_280.0, "3 Years"), *rows])
    assert read_prices(book).skus["Standard_A"].reserved_usd_per_hour == {"eastus": {"1 Year": 2.0, "3 Years": 1.0}}
    result, _ = refreshed(book, [reservation(8_760.0), *rows])
    assert "Standard_A in eastus for 1 Year" in result.found
    assert "Standard_A in eastus for 3 Years" in result.kept
    assert read_prices(book).skus["Standard_A"].reserved_usd_per_hour == {"eastus": {"1 Year": 1.0, "3 Years": 1.0}}


def test_a_price_that_was_refreshed_is_as_old_as_its_own_day_and_not_as_the_oldest(book):
    refreshed(book, [vm(usd=2.25), *PHI_4])
    after = read_prices(book)
    assert (after.token_price("Phi-4").source, after.token_price("Phi-4").dated) == ("Azure Retail Prices API", TODAY)
    assert after.token_price("Phi-3.5-MoE").dated == OLD
    a = after.skus["Standard_A"]
    assert [a.origin(region).dated for region in ("eastus", "westus")] == [TODAY, date(2026, 1, 3)]
    assert a.dated == date(2026, 1, 3)  # the section's


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('reserved_usd_per_hour = { eastus = { "2 Years" = 1.0 } }', "has the term '2 Years'"),
        ('reserved_usd_per_hour = { eastus = { "1 Year" = 0.0 } }', "must be a price above zero"),
        ("reserved_usd_per_hour = { eastus = 1.0 }", "must be a table"),
        ('retired = "last year"', "retired must be the day Azure retires it"),
        ('origins = { eastus = { source = "", dated = 2026-01-01 } }', "origins.eastus.source must say"),
    ],
)
def test_what_a_sku_says_beside_its_price_is_checked_too(book, line, message):
    book.write_text(BOOK_TEXT.replace("[managed.skus.Standard_B]", f"{line}\n[managed.skus.Standard_B]"))
    with pytest.raises(ConfigError, match=message):
        read_prices(book)


@pytest.mark.parametrize(
    ("claim", "rows", "regions", "prices"),
    [
        ("input and output make a price", PHI_4, ["eastus"], {"phi-4": (0.1, 0.4)}),
        ("one of them makes none", PHI_4[:1], ["eastus"], {}),
        ("names are told apart whatever their case", (meter("Phi-4-Mini-Input Tokens"), meter("Phi-4-mini-instruct-output tokens", 0.2)), ["eastus"], {"phi-4-mini": (0.1, 0.2)}),
        ("cached and batched tokens are others", (*PHI_4, meter("Phi-4-Cached Input Tokens", 0.01), meter("Phi-4-Batch-Output Tokens", 0.2)), ["eastus"], {"phi-4": (0.1, 0.4)}),
        ("what is no token meter is passed over", (*PHI_4, meter("Phi-4 Hosting Unit", 9.0)), ["eastus"], {"phi-4": (0.1, 0.4)}),
        ("a price per million is no price per thousand", [{**row, "unitOfMeasure": "1M"} for row in PHI_4], ["eastus"], {}),
        ("another product may have a meter of that name", [{**row, "productName": "Azure Phi Models FT"} for row in PHI_4], ["eastus"], {}),
        ("the same price in two regions is one", (*PHI_4, meter(region="westus")), ["eastus", "westus"], {"phi-4": (0.1, 0.4)}),
        ("another region's price is not asked for", (*PHI_4, meter(region="usgovvirginia", usd=0.2)), ["eastus"], {"phi-4": (0.1, 0.4)}),
        ("a worldwide price is every region's", [{**row, "armRegionName": "Global"} for row in PHI_4], ["eastus"], {"phi-4": (0.1, 0.4)}),
        ("a book without SKUs names no region", PHI_4, [], {"phi-4": (0.1, 0.4)}),
        ("nothing is free", (meter(usd=0.0), PHI_4[1]), ["eastus"], {}),
        ("nor a reservation a price", [{**row, "type": "Reservation"} for row in PHI_4], ["eastus"], {}),
    ],
)  # fmt: skip
def test_a_models_price_is_that_of_its_two_token_meters(claim, rows, regions, prices):
    assert token_prices(rows, regions, TODAY).items() >= prices.items(), claim
    assert ("phi-4" in token_prices(rows, regions, TODAY)) == ("phi-4" in prices)


BUSY = (429, {"Retry-After": "2"}, b"")


class RetailServer:
    """The API on loopback. It filters as the API does, by the exact value; `lax` it returns every row to every
    question. `script(number, url)` may answer a request in its place: a status, headers and a body, or None.
    """

    def __init__(self, rows, *, page=100, lax=False, script=None):
        self.rows, self.page, self.lax = list(rows), page, lax
        self.script = script or (lambda number, url: None)
        self.arrivals, self.filters = [], []
        self._lock = threading.Lock()

    def __enter__(self):
        outer = self

        class Answer(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # a client that fails hangs up on the others' answers
        self.url = f"http://127.0.0.1:{self._server.server_port}/api/retail/prices"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request):
        query = parse_qs(urlsplit(request.path).query)
        wanted, skip = query["$filter"][0], int(query.get("$skip", ["0"])[0])
        with self._lock:
            number = len(self.arrivals)
            self.arrivals.append(time.monotonic())
            self.filters.append(wanted)
        status, headers, body = self.script(number, self.url) or (200, {}, self.envelope(wanted, skip))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            request.send_header(name, str(value))
        request.end_headers()
        request.wfile.write(content)
        request.close_connection = "Content-Length" in headers

    def envelope(self, wanted, skip):
        rows = [row for row in self.rows if self.lax or is_wanted(row, wanted)]
        items, more = rows[skip : skip + self.page], skip + self.page < len(rows)
        link = f"{self.url}?$filter={quote(wanted)}&$skip={skip + self.page}" if more else None
        return envelope(items, link)


def envelope(items, link=None):
    kept = {"BillingCurrency": "USD", "CustomerEntityId": "Default", "CustomerEntityType": "Retail"}
    return {**kept, "Items": items, "NextPageLink": link, "Count": len(items)}


def is_wanted(row, wanted):
    """`a eq 'x' and (b eq 'y' or b eq 'z')`, case and all."""
    groups = [findall(r"(\w+) eq '((?:[^']|'')*)'", group) for group in wanted.split(" and ")]
    key = {"priceType": "type"}
    return all(any(row[key.get(name, name)] == value.replace("''", "'") for name, value in group) for group in groups)


@pytest.fixture(autouse=True)
def no_proxy_between_us_and_the_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(BOOK_TEXT)
    return path


def refreshed(book, rows, *regions, **server):
    with RetailServer(rows, **server) as api:
        return refresh(book, api=api.url, regions=regions, today=TODAY), api


@pytest.mark.parametrize("lax", [False, True], ids=["a server that filters", "a server that does not"])
def test_what_the_api_lists_is_taken_over_and_all_else_kept(book, lax):
    rows = [{**vm(usd=0.5), **changes} for _, changes in TRAPS] + [vm(usd=2.25), vm("Standard_B", usd=5), *PHI_4]
    result, _ = refreshed(book, rows, lax=lax)
    for_a_year = "Standard_A in eastus for 1 Year"
    assert result.found == ("Standard_A in eastus", for_a_year, "Standard_B in eastus", "Phi-4")
    assert result.kept == ("Standard_A in westus", "Phi-3.5-MoE-Instruct")
    new, azure, old = read_book(book), ("Azure Retail Prices API", TODAY), ("a contract", OLD)
    tokens = {each.name: (each.usd, each.source, each.dated) for each in retail.token_quotes(new)}
    assert tokens == {
        "Phi-4": ((0.1, 0.4), *azure),
        "Phi-3.5-MoE-Instruct": ((3.0, 4.0), *old),
        'Mistral "Nemo"': ((0.00015, 0.00015), *old),
    }
    hourly = {region: retail.hourly_quotes(new, region) for region in ("eastus", "westus")}
    assert [(*each.usd, each.source, each.dated) for each in hourly["eastus"]] == [(2.25, *azure), (5.0, *azure)]
    assert [(*each.usd, each.source, each.dated) for each in hourly["westus"]] == [(3.0, "a quote", date(2026, 1, 3))]
    assert new["note"] == "kept, though Headroom does not know it"
    before, after = read_prices_of(BOOK_TEXT, book.parent), read_prices(book)
    assert after.hosts == before.hosts
    assert {name: (sku.cores, sku.gpus, sku.exempt_from_reservation) for name, sku in after.skus.items()} == {
        name: (sku.cores, sku.gpus, sku.exempt_from_reservation) for name, sku in before.skus.items()
    }


def read_prices_of(text, folder):
    path = folder / "other.toml"
    path.write_text(text)
    return read_prices(path)


def test_a_section_names_every_source_of_its_prices_and_the_oldest_day(book):
    refreshed(book, [vm(), *PHI_4])
    raw = tomllib.loads(book.read_text())
    assert (raw["managed"]["source"], raw["managed"]["dated"]) == ("Azure Retail Prices API; a quote", date(2026, 1, 3))
    refreshed(book, [vm(), vm(region="westus"), vm("Standard_B"), *PHI_4])
    raw = tomllib.loads(book.read_text())
    assert (raw["managed"]["source"], raw["managed"]["dated"]) == ("Azure Retail Prices API", TODAY)
    assert raw["serverless"]["source"] == "Azure Retail Prices API; a contract"


def test_a_region_may_be_asked_for_that_the_book_has_not(book):
    result, api = refreshed(book, [vm(region="uksouth", usd=9), vm(), *PHI_4], "uksouth")
    assert result.found == ("Standard_A in uksouth",)
    assert read_prices(book).skus["Standard_A"].usd_per_hour == {"eastus": 2.0, "westus": 3.0, "uksouth": 9.0}
    assert all("eastus" not in each for each in api.filters)


def test_without_a_book_headrooms_own_is_refreshed_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(retail, "REQUESTS_PER_S", 50)
    own = BOOK.read_bytes()
    refreshed(tmp_path / "new.toml", PHI_4)
    assert read_prices(tmp_path / "new.toml").token_price("Phi-4").input_usd_per_1k == 0.1
    assert read_prices(tmp_path / "new.toml").skus.keys() == read_prices().skus.keys()
    assert BOOK.read_bytes() == own


def test_the_questions_are_spelt_as_the_api_wants_them(book):
    book.write_text(BOOK_TEXT.replace("skus.Standard_A]", 'skus."it\'s"]').replace('"Standard_A"', '"it\'s"'))
    result, api = refreshed(book, [vm("it's", usd=6)])
    assert result.found == ("it's in eastus",)
    kinds = "(priceType eq 'Consumption' or priceType eq 'Reservation')"
    machine = f"serviceName eq 'Virtual Machines' and {kinds} and armSkuName eq"
    regions = "(armRegionName eq 'eastus' or armRegionName eq 'westus')"
    assert sorted(api.filters) == [
        "productName eq 'Azure Phi Models' and priceType eq 'Consumption'",
        f"{machine} 'Standard_B' and {regions}",
        f"{machine} 'it''s' and {regions}",
    ]


def test_pages_are_followed_to_the_last(book):
    rows = [vm(usd=0.5, skuName="A Spot") for _ in range(4)] + [vm(usd=4.5), *PHI_4]
    result, api = refreshed(book, rows, page=2)
    assert result.found == ("Standard_A in eastus", "Phi-4")
    assert len(api.arrivals) == 3 + 1 + 1


def test_no_second_sees_more_requests_than_agreed(book):
    skus = "".join(
        f"[managed.skus.S{n}]\ncores = 1\ngpus = 1\nexempt_from_reservation = true\nusd_per_hour = {{ eastus = 1.0 }}\n"
        for n in range(8)
    )
    book.write_text(BOOK_TEXT + skus)
    _, api = refreshed(book, PHI_4)
    many = 6  # one more than a second may have
    assert len(api.arrivals) == 11
    assert min(b - a for a, b in zip(api.arrivals, api.arrivals[many:], strict=False)) > 0.8
    assert api.arrivals[-1] - api.arrivals[0] < 8


def test_retry_after_is_waited_for_by_all_questions(book, monkeypatch):
    monkeypatch.setattr(retail, "REQUESTS_PER_S", 2)  # so that the third question is still waiting for its turn
    result, api = refreshed(book, [vm(), *PHI_4], script=lambda number, url: BUSY if number == 0 else None)
    assert result.found == ("Standard_A in eastus", "Phi-4")
    assert [round(arrival - api.arrivals[0]) for arrival in api.arrivals] == [0, 0, 2, 2]


def says(status=200, body=b"", **headers):
    return lambda number, url: (status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def with_row(row):
    return says(body=envelope([row]))


def without(key):
    return {name: value for name, value in vm().items() if name != key}


FAILURES = [
    ("the server failed", says(500), "answered 500; try again later"),
    ("it is not the API", says(404), "answered 404; check that --api is the Azure Retail Prices API"),
    ("it sends elsewhere", says(302, Location="http://127.0.0.1:9/"), "answered 302"),
    ("it is busy for long", says(429, Retry_After="3600"), "answered 429; try again in 3600 s"),
    ("it stays busy", says(429, Retry_After="0"), "answered 429; try again later"),
    ("it sends a page of a browser", says(body=b"<html>"), "answered what is not JSON"),
    ("it sends half its JSON", says(body=b'{"Items": [{'), "answered what is not JSON"),
    ("it sends no text", says(body=b"\xff\xfe\xff"), "answered what is not JSON"),
    ("it sends what takes any parser apart", says(body=b"[" * 200_000), "answered what is not JSON"),
    ("it sends something else", says(body=[]), "has no Items"),
    ("the rows are missing", says(body={"NextPageLink": None}), "has no Items"),
    ("the rows are none", says(body={"Items": None, "NextPageLink": None}), "has no Items"),
    ("the next page is missing", says(body={"Items": []}), "has no NextPageLink"),
    ("a row is no row", with_row("row"), "a row of the answer has no"),
    *((f"a row has no {key}", with_row(without(key)), f"a row of the answer has no {key}") for key in ("productName", "skuName", "meterName", "armSkuName", "armRegionName", "type", "unitOfMeasure", "effectiveStartDate", "currencyCode")),
    ("a row has no price", with_row(without("retailPrice")), "Standard_A in eastus has no number as its retailPrice"),
    ("a price is text", with_row(vm(usd="4.0")), "has no number as its retailPrice"),
    ("a price is a flag", with_row(vm(usd=True)), "has no number as its retailPrice"),
    ("a price is not a number", with_row(vm(usd=float("nan"))), "has no number as its retailPrice"),
    ("a price is beyond all floats", with_row(vm(usd=10**400)), "has no number as its retailPrice"),
    ("a price is in another currency", with_row(vm(currencyCode="EUR")), "Standard_A in eastus is listed in 'EUR', not USD"),
    ("a day is no day", with_row(vm(effectiveStartDate="soon")), "effectiveStartDate is no date"),
    ("two rows disagree", says(body=envelope([vm(), vm(usd=4.5)])), "Standard_A in eastus is listed both at 4 and at 4.5 USD"),
    ("two regions disagree", says(body=envelope([*PHI_4, meter(region="westus", usd=0.2)])), "'Phi-4-Input Tokens' is listed both at 0.1 and at 0.2 USD; name one region with --region"),
    ("nothing is listed", says(body=envelope([])), "lists none of them; check --api, and --region"),
    ("the next page is this one", lambda number, url: (200, {}, envelope([], f"{url}?$filter=x")), "sends page after page"),
    ("there is always a next page", lambda number, url: (200, {}, envelope([], f"{url}?$filter=x&$skip={number}")), "sends page after page"),
    ("the next page is another host's", lambda number, url: (200, {}, envelope([], url.replace("127.0.0.1", "localhost"))), "another host"),
    ("the next page is at another port", lambda number, url: (200, {}, envelope([], "http://127.0.0.1:9/?$skip=1")), "another host"),
    ("the next page is nowhere", lambda number, url: (200, {}, envelope([], "http://[")), "another host"),
    ("the next page is just a path", lambda number, url: (200, {}, envelope([], "/api?$skip=1")), "another host"),
    ("the answer breaks off", says(body=b"{", Content_Length=99), "the answer of 127.0.0.1 cannot be read"),
    ("the answer is not what it says", says(body=b"no gzip at all", Content_Encoding="gzip"), "the answer of 127.0.0.1 cannot be read"),
    ("the answer does not come", lambda number, url: time.sleep(1.5), "did not answer within 0.5 s; try again later"),
]  # fmt: skip


@pytest.mark.parametrize(("script", "message"), [row[1:] for row in FAILURES], ids=[row[0] for row in FAILURES])
def test_after_any_failure_the_book_is_byte_for_byte_what_it_was(book, monkeypatch, script, message):
    monkeypatch.setattr(retail, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(retail, "MOST_PAGES", 3)
    monkeypatch.setattr(retail, "REQUESTS_PER_S", 50)
    with pytest.raises(RetailError, match=message) as caught:
        refreshed(book, [], script=script)
    text = str(caught.value)
    assert text.startswith("no prices were refreshed, and the price book is as it was: ") and "\n" not in text
    assert caught.value.exit_code == 1
    assert book.read_text() == BOOK_TEXT
    assert [path.name for path in book.parent.iterdir()] == ["prices.toml"]


def test_a_refused_request_is_tried_three_times_and_no_more(book, monkeypatch):
    monkeypatch.setattr(retail, "REQUESTS_PER_S", 50)
    book.write_text(BOOK_TEXT.partition("[managed]")[0])  # so that there is one question alone
    with RetailServer([], script=says(429, Retry_After="0")) as api, pytest.raises(RetailError):
        refresh(book, api=api.url, regions=(), today=TODAY)
    assert len(api.arrivals) == 3


def test_all_waiting_ends_at_the_deadline(book, monkeypatch):
    monkeypatch.setattr(retail, "DEADLINE_S", 0.5)
    with pytest.raises(RetailError, match=r"127.0.0.1 was not done after 0.5 s; try again later"):
        refreshed(book, [], script=lambda number, url: time.sleep(1))
    assert book.read_text() == BOOK_TEXT


def test_where_nothing_listens_no_new_book_appears(tmp_path):
    with RetailServer([]) as api:
        pass
    with pytest.raises(RetailError, match=r"127.0.0.1 cannot be reached .*; check the network and --api"):
        refresh(tmp_path / "new.toml", api=api.url, regions=(), today=TODAY)
    assert list(tmp_path.iterdir()) == []


def test_a_book_that_cannot_be_read_back_is_not_published(book, monkeypatch):
    monkeypatch.setattr(retail, "_toml", lambda table: ['currency = "USD"'])
    with pytest.raises(RetailError, match="the new book cannot be used .*; please report this"):
        refreshed(book, PHI_4)
    assert book.read_text() == BOOK_TEXT


def test_a_disk_that_is_full_leaves_the_old_book(book, monkeypatch):
    def publish(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(retail, "publish_bytes", publish)
    with pytest.raises(ConfigError, match=r"prices.toml cannot be written: No space left on device"):
        refreshed(book, PHI_4)
    assert book.read_text() == BOOK_TEXT


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("output_usd_per_1k = 2.5", "output_usd_per_1k = 0"), r"must be a price above zero"),
        (("output_usd_per_1k = 2.5", "output_usd_per_1k = 2.5, dated = 2026"), r'serverless.models."Phi-4".dated must be the day'),
        (("cores = 8", "cores = 8\norigins = { eastus = 7 }"), r"managed.skus.Standard_B.origins.eastus.source must say"),
        (("cores = 8", "cores = 8\norigins = 7"), r"managed.skus.Standard_B.origins must be a table"),
    ],
)  # fmt: skip
def test_a_book_that_is_none_is_refused_before_anything_is_asked(book, change, message):
    book.write_text(BOOK_TEXT.replace(*change))
    with RetailServer(PHI_4) as api, pytest.raises(ConfigError, match=message) as caught:
        refresh(book, api=api.url, regions=(), today=TODAY)
    assert str(book) in str(caught.value)
    assert api.arrivals == []


@pytest.mark.parametrize("place", ["none/prices.toml", "."])
def test_where_no_book_can_be_written_nothing_is_asked(tmp_path, place):
    with RetailServer(PHI_4) as api, pytest.raises(ConfigError, match="cannot be"):
        refresh(tmp_path / place, api=api.url, regions=(), today=TODAY)
    assert api.arrivals == []


@pytest.mark.parametrize(
    "api", ["prices.azure.com", "ftp://h/", "http://", "http://u:p@h/", "http://h/?a=b", "http://h:x/", ""]
)
def test_what_is_no_address_of_an_api_is_refused(book, api):
    with pytest.raises(ConfigError, match="--api must be"):
        refresh(book, api=api, regions=(), today=TODAY)


VALUES = st.one_of(
    st.text(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.dates(), st.lists(st.text() | st.floats(0, 1))
)  # fmt: skip
TABLES = st.recursive(VALUES, lambda inner: st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


@settings(max_examples=60)
@given(st.dictionaries(st.text(), TABLES, max_size=4))
def test_every_table_is_read_as_it_was_written(table):
    assert tomllib.loads("\n".join(retail._toml(table))) == table


def test_the_command_refreshes_the_book_beside_it_and_shows_it(tmp_path, book):
    with RetailServer([vm(usd=2.125), *PHI_4]) as api:
        done = told(tmp_path, "prices", "refresh", "--api", api.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("prices.toml: 2 prices refreshed;")
    assert done.stdout.splitlines()[1].endswith(": Standard_A in westus, Standard_B in eastus, Phi-3.5-MoE-Instruct")
    shown = told(tmp_path, "prices", "show", "--book", "prices.toml").stdout
    lines = [line.split() for line in shown.splitlines()]
    today = read_book(book)["serverless"]["models"]["Phi-4"]["dated"].isoformat()
    for row in (
        ["Phi-4", "0.1", "0.4", today, "[1]"],
        ["Phi-3.5-MoE-Instruct", "3", "4", "2026-01-02", "[2]"],
        ["Standard_A", "2.125", today, "[1]"],
        ["Standard_B", "5", "2026-01-03", "[3]"],
        ["[1]", "Azure", "Retail", "Prices", "API"],
        ["[3]", "a", "quote"],
    ):
        assert row in lines
    west = told(tmp_path, "prices", "show", "--book", "prices.toml", "--region", "westus").stdout
    assert ["Standard_A", "3", "2026-01-03", "[3]"] in [line.split() for line in west.splitlines()]
    assert "Standard_B" not in west


def test_the_command_fails_with_one_sentence_and_its_own_exit_code(tmp_path, book):
    with RetailServer([], script=says(500)) as api:
        done = told(tmp_path, "prices", "refresh", "--api", api.url, "--region", "eastus")
    assert (done.returncode, done.stdout, book.read_text()) == (1, "", BOOK_TEXT)
    assert done.stderr == (
        "headroom: no prices were refreshed, and the price book is as it was: 127.0.0.1 answered 500; try again later\n"
    )
    wrong = told(tmp_path, "prices", "refresh", "--api", "nowhere")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)


def test_without_a_book_the_one_that_comes_with_headroom_is_shown_and_words_are_words(tmp_path):
    shown = told(tmp_path, "prices", "show")
    assert shown.returncode == 0
    assert search(r"Standard_NC24ads_A100_v4 +3\.673  2026-11-20", shown.stdout)
    assert "Standard_NC6s_v3 (retired 2025-09-30)" in shown.stdout
    hostile = tmp_path / "hostile.toml"
    hostile.write_text(BOOK_TEXT.replace("a contract", "[red]a[/] \\u001b[31m"))
    shown = told(tmp_path, "prices", "show", "--book", str(hostile), "--region", "none[/]")
    assert "[1] [red]a[/] [31m" in shown.stdout and "SKU, $ per hour in none[/]: none in the book" in shown.stdout

"""What a user would pick instead, serving the same files: FastAPI and asyncpg, plainly used."""

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import asyncpg
from fastapi import FastAPI, HTTPException, Response

FOLDER = Path(__file__).parents[2] / 'db' / 'functions'
POOL_SIZE = 8  # for each worker


def load(name: str, *binds: str) -> str:
    """Return a file's statement with its binds numbered in the order given."""
    sql = (FOLDER / f'{name}.sql').read_text()
    for number, bind in enumerate(binds, 1):
        sql = re.sub(rf'(?<!:):{bind}\b', f'${number}', sql)
    return sql


TOP = load('top_benefits', 'timestamp')
AVAILABLE = load('available_benefits', 'venue_id', 'person_id', 'timestamp')
INACTIVITY = load('inactivity_periods', 'venue_id', 'timestamp')


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep a pool of connections while the application runs."""
    url = os.environ['DATABASE_URL']
    async with asyncpg.create_pool(url, min_size=POOL_SIZE, max_size=POOL_SIZE) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def answer(sql: str, *values: object) -> Response:
    """Run a statement and pass its body on."""
    row = await app.state.pool.fetchrow(sql, *values)
    if row['missing']:
        raise HTTPException(404, f'there is no {row["missing"]}')
    return Response(row['body'], media_type='application/json')


@app.get('/venues/top-benefits')
async def top_benefits(timestamp: datetime | None = None) -> Response:
    """Answer with top_benefits.sql."""
    return await answer(TOP, timestamp)


@app.get('/venues/{venueId}/available-benefits')
async def available_benefits(
    venueId: int,  # noqa: N803 - as clients name it
    personId: int,  # noqa: N803
    timestamp: datetime | None = None,
) -> Response:
    """Answer with available_benefits.sql."""
    return await answer(AVAILABLE, venueId, personId, timestamp)


@app.get('/venues/{venueId}/inactivity-periods')
async def inactivity_periods(
    venueId: int,  # noqa: N803
    timestamp: datetime | None = None,
) -> Response:
    """Answer with inactivity_periods.sql."""
    return await answer(INACTIVITY, venueId, timestamp)

"""Map an async function over records: in this process, or in several beside it."""

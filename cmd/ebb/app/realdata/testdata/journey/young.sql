-- Also those who bought nothing in the 90 days.
SELECT visitor FROM households WHERE age IN ('19-24', '25-34')

SELECT visitor FROM bought WHERE day = today()

SELECT visitor FROM seen WHERE path = '/isapi' INTERSECT SELECT visitor FROM seen WHERE path = '/search'

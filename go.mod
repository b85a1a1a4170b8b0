module github.com/metricsgate/metricsgate

go 1.26.0
